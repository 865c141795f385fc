"""Files of tokens of llama2.c: each with the score by which pairs are merged into it."""

import functools
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, processors

from lora_jax.hub.tokenizer import Tokenizer

_FIRST_BYTE = 3  # id of the first of the 256 tokens that stand for one byte each


def find_tokenizer(weights: Path, vocab_size: int) -> Callable[..., Tokenizer]:
    """The tokenizer beside a file of weights: `tokN.bin` for N tokens, or `tokenizer.bin`."""
    own = weights.parent / f"tok{vocab_size}.bin"
    path = own if own.is_file() else weights.parent / "tokenizer.bin"
    return functools.partial(Llama2cTokenizer, path)


class Llama2cTokenizer(Tokenizer):
    """A tokenizer of llama2.c: byte-pair merges in the order of their scores.

    Args:
        path: the file of tokens and scores.
        **ids: as of `Tokenizer`.
    """

    def __init__(self, path: Path, **ids: Any) -> None:
        super().__init__(path.parent, **ids)
        self._path = path

    @property
    def file(self) -> Path:
        """Where the vocabulary lies."""
        return self._path

    def _read(self) -> tokenizers.Tokenizer:
        if not self.exists:
            raise FileNotFoundError(f"{self.directory} has no {self.file.name}")
        scores = _read_tokens(self._path, self._limit)
        made = tokenizers.Tokenizer(_byte_pairs(scores))
        made.normalizer = normalizers.Prepend(" ")
        made.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        special = list(scores)[:_FIRST_BYTE]
        made.add_special_tokens(special)
        begin = special[1]
        made.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, 1)]
        )
        return made


def _read_tokens(path: Path, count: int | None) -> dict[str, float]:
    """The tokens in order with their scores; the file does not say how many there are."""
    content = path.read_bytes()
    found: dict[str, float] = {}
    offset = 4  # after the length of the longest token
    while offset < len(content) and (count is None or len(found) < count):
        header = content[offset : offset + 8]
        score, size = struct.unpack("<fi", header) if len(header) == 8 else (0.0, -1)
        text = content[offset + 8 : offset + 8 + size] if size >= 0 else b""
        if size < 0 or len(text) < size:
            raise ValueError(
                f"{path} is truncated or no tokenizer: token {len(found)} is not whole"
            )
        name = _token_name(len(found), text)
        found[name if name not in found else f"<unused {len(found)}>"] = score
        offset += 8 + size
    if len(found) < max(count or 0, _FIRST_BYTE + 256):
        raise ValueError(f"{path} has {len(found)} tokens, but the model needs {count}")
    return found


def _token_name(token: int, text: bytes) -> str:
    if token < _FIRST_BYTE:  # named after their use; the file pads them with line breaks
        return ("<unk>", "<s>", "</s>")[token]
    if token < _FIRST_BYTE + 256:
        return f"<0x{token - _FIRST_BYTE:02X}>"  # as byte fallback looks them up
    return text.decode("utf-8", errors="replace")


def _byte_pairs(scores: Mapping[str, float]) -> models.BPE:
    """The merges that make each token from two others, those of the highest score first."""
    vocabulary = {token: i for i, token in enumerate(scores)}
    learnt = list(scores)[_FIRST_BYTE + 256 :]
    merges = [
        (token[:cut], token[cut:])
        for token in sorted(learnt, key=lambda token: -scores[token])
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    return models.BPE(
        vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=False
    )
