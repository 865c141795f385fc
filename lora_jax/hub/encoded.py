"""Batches of token sequences."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tokenizers


class Encoded(NamedTuple):
    """A batch of token sequences of one length.

    Args:
        ids: token ids `[batch, length]` in int32, `pad_id` where there is no text.
        mask: of the same shape: 1 for real tokens, 0 for padding.
        type_ids: of the same shape: 1 for the tokens of a second text, 0 elsewhere.
    """

    ids: np.ndarray
    mask: np.ndarray
    type_ids: np.ndarray


def pad(
    encodings: Sequence[tokenizers.Encoding], length: int, pad_id: int, *, left: bool
) -> Encoded:
    """Makes a batch of one length.

    Args:
        encodings: the texts, none longer than `length`.
        length: in tokens.
        pad_id: what fills up the short ones.
        left: fill up before the text instead of after it.
    """
    batch = Encoded(
        ids=np.full((len(encodings), length), pad_id, np.int32),
        mask=np.zeros((len(encodings), length), np.int32),
        type_ids=np.zeros((len(encodings), length), np.int32),
    )
    for row, encoding in enumerate(encodings):
        real = len(encoding.ids)
        places = slice(length - real, length) if left else slice(real)
        batch.ids[row, places] = encoding.ids
        batch.mask[row, places] = 1
        batch.type_ids[row, places] = encoding.type_ids
    return batch


def raise_too_long(texts: Sequence[str], lengths: Sequence[int], length: int) -> None:
    """Refuses texts of the given lengths, one of which at least is above `length`."""
    row = int(np.argmax(lengths))
    over = sum(found > length for found in lengths)
    raise ValueError(
        f"{over} of {len(texts)} texts are longer than {length} tokens, the longest (number {row}, "
        f"{texts[row][:40]!r}…) has {lengths[row]}; raise length, or cut them with truncate=True"
    )
