"""Texts to token ids, by the tokenizer.json that a pretrained model was trained with."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from jaxtyping import Int


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


class Tokenizer:
    """Turns texts, or pairs of texts, into token ids and back.

    Args:
        directory: holds `tokenizer.json`, which is read at the first use.
        pad_id: id that fills up short texts.

    Raises, at the first use:
        FileNotFoundError: there is no `tokenizer.json`.
        ValueError: the file is corrupt.
    """

    def __init__(self, directory: str | Path, *, pad_id: int) -> None:
        self._path = Path(directory) / "tokenizer.json"
        self.pad_id = pad_id

    @property
    def exists(self) -> bool:
        """Whether there is a file to read."""
        return self._path.is_file()

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the added ones included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @functools.cached_property
    def _tokenizer(self) -> tokenizers.Tokenizer:
        if not self.exists:
            raise FileNotFoundError(f"{self._path.parent} has no {self._path.name}")
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(self._path))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{self._path} is not a tokenizer: {error}") from error
        tokenizer.no_padding()
        return tokenizer

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        length: int | None = None,
        truncate: bool = False,
    ) -> Encoded:
        """Encodes texts with the special tokens of the model, padded at the end to one length.

        Args:
            texts: the texts.
            pairs: the second text of each pair, as many as `texts`.
            length: length of the result in tokens; None takes that of the longest text.
            truncate: cut texts that are longer than `length`, of a pair the longer one first.

        Returns:
            Arrays of int32.

        Raises:
            ValueError: a text is too long and `truncate` is False, or the numbers of texts differ.
        """
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"{len(texts)} texts, but {len(pairs)} second texts")
        if truncate and length is not None:
            self._tokenizer.enable_truncation(length, strategy="longest_first")
        else:
            self._tokenizer.no_truncation()
        inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        encodings = self._tokenizer.encode_batch(inputs)
        longest = max((len(encoding.ids) for encoding in encodings), default=0)
        if length is not None and longest > length:
            _raise_too_long(texts, [len(encoding.ids) for encoding in encodings], length)
        return _pad(encodings, longest if length is None else length, self.pad_id)

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " length"]) -> str:
        """Turns token ids back into text, without special tokens."""
        return self._tokenizer.decode([int(i) for i in ids])

    def tokens(self, ids: Sequence[int] | Int[np.ndarray, " length"]) -> list[str]:
        """Spells out each token id, special ones too."""
        return [self._tokenizer.id_to_token(int(i)) or "?" for i in ids]


def _pad(encodings: Sequence[tokenizers.Encoding], length: int, pad_id: int) -> Encoded:
    batch = Encoded(
        ids=np.full((len(encodings), length), pad_id, np.int32),
        mask=np.zeros((len(encodings), length), np.int32),
        type_ids=np.zeros((len(encodings), length), np.int32),
    )
    for row, encoding in enumerate(encodings):
        real = len(encoding.ids)
        batch.ids[row, :real] = encoding.ids
        batch.mask[row, :real] = 1
        batch.type_ids[row, :real] = encoding.type_ids
    return batch


def _raise_too_long(texts: Sequence[str], lengths: Sequence[int], length: int) -> None:
    row = int(np.argmax(lengths))
    over = sum(found > length for found in lengths)
    raise ValueError(
        f"{over} of {len(texts)} texts are longer than {length} tokens, the longest (number {row}, "
        f"{texts[row][:40]!r}…) has {lengths[row]}; raise length, or cut them with truncate=True"
    )
