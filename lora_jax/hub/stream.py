"""Tokens that come one after another, as text that never shows half a character."""

from collections.abc import Sequence

import numpy as np

from lora_jax.hub.tokenizer import Tokenizer


class TextStream:
    """Turns token ids that come one after another into text, in complete characters only.

    A character may be spread over several tokens; it is shown with the last of them. All that
    `add` and `end` return, joined, is what `decode` makes of all the ids.

    Args:
        tokenizer: the tokenizer.
        special: whether to show special tokens.
    """

    def __init__(self, tokenizer: Tokenizer, *, special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._ids: list[int] = []
        # Decoding starts at a token already shown, because the first token of a text may be
        # decoded in its own way: without its leading space, for one.
        self._start = 0
        self._shown = 0

    def add(self, token: int | np.integer) -> str:
        """Takes the next token and returns the text that is certain now, often none."""
        self._ids.append(int(token))
        text = self._hidden()
        # Bytes that do not make a character yet are decoded as this one.
        return "" if text.endswith("\N{REPLACEMENT CHARACTER}") else self._show(text)

    def end(self) -> str:
        """Returns the text still held back: half a character shows as U+FFFD."""
        return self._show(self._hidden())

    def _hidden(self) -> str:
        seen = self._decode(self._ids[self._start : self._shown])
        return self._decode(self._ids[self._start :])[len(seen) :]

    def _show(self, text: str) -> str:
        if text:
            self._start, self._shown = self._shown, len(self._ids)
        return text

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, special=self._special)
