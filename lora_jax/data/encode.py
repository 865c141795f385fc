"""From the records of a task to arrays of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lora_jax.data.task import Record
from lora_jax.hub.tokenizer import Tokenizer

Examples = Mapping[str, np.ndarray]


def encode(records: Sequence[Record], tokenizer: Tokenizer, length: int) -> dict[str, np.ndarray]:
    """Turns records into tokens, padded or cut at the end to one length.

    Args:
      records: at least one; all with a second text or all without.
      tokenizer: of the model that will read them.
      length: tokens of each example, special ones included; at least 4, or 5 for pairs.

    Returns:
      `ids`, `mask` (1 for real tokens) and `type_ids` (1 for the second text) of shape
      [records, length] in int32, and `label` of shape [records]: int32 for classes, float32 for
      scores.

    Raises:
      ValueError: no records, pairs mixed with single texts, or too short a length.
    """
    if not records:
        raise ValueError("there are no records to encode")
    paired = records[0].pair is not None
    if any((record.pair is not None) != paired for record in records):
        raise ValueError("some records have a second text and some have none")
    if length < 4 + paired:
        raise ValueError(f"a length of {length} tokens leaves no room for text; use 32 or more")
    pairs = [record.pair or "" for record in records] if paired else None
    texts = [record.text for record in records]
    encoded = tokenizer.encode(texts, pairs, length=length, truncate=True)
    is_class = all(isinstance(record.label, int) for record in records)
    labels = np.array([r.label for r in records], np.int32 if is_class else np.float32)
    return {**encoded._asdict(), "label": labels}
