"""Texts to learn as they are, joined to one stream of tokens and cut into full rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lora_jax.data.packing import Rows


def cut_stream(documents: Sequence[np.ndarray], length: int, end_id: int) -> Rows:
    """Joins documents, an end token after each, and cuts the stream into rows without padding.

    As models are pretrained: a row may start and end within a document, and hold several; each
    token sees all tokens before it in its row. What does not fill a last row is left out.

    Args:
      documents: token ids of each, in order.
      length: tokens of a row, at least 2.
      end_id: what ends a document.

    Returns:
      `{"ids", "trained", "segments"}`, int32 `[rows, length]`: all trained, one segment a row.

    Raises:
      ValueError: too short rows, or fewer tokens than one row.

    >>> cut_stream([np.array([5, 6]), np.array([7])], 2, end_id=0)["ids"].tolist()
    [[5, 6], [0, 7]]
    """
    if length < 2:
        raise ValueError(f"rows of {length} tokens predict nothing: at least 2 are needed")
    end = np.array([end_id])
    parts = [part for document in documents for part in (document, end)]
    stream = np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)
    count = len(stream) // length
    if not count:
        raise ValueError(f"{len(stream)} tokens do not fill one row of {length}")
    ids = stream[: count * length].reshape(count, length)
    return {"ids": ids, "trained": np.ones_like(ids), "segments": np.ones_like(ids)}
