"""A text while its tokens come: what of it can be shown, and where a stop string ends it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from lora_jax.hub import TextStream, Tokenizer


class GrowingText:
    """One text as it grows, up to the first stop string in it.

    Args:
        tokenizer: the model's.
        stop: strings that end the text, wherever they lie in its tokens.

    Attributes:
        text: so far, without special tokens and without the stop string.
        tokens: of the text, with the one that completed the stop string.
        stopped: whether a stop string has ended it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.text = ""
        self.tokens: list[int] = []
        self.stopped = False
        self._stream = TextStream(tokenizer)
        self._stop = stop
        self._shown = 0

    def add(self, tokens: Iterable[int | np.integer], *, last: bool) -> str:
        """Takes the next tokens, of which nothing counts after a stop string.

        Args:
            tokens: their ids.
            last: whether the text ends with them.

        Returns:
            What can be shown now: neither half a character nor the beginning of what may turn out
            to be a stop string is in it.
        """
        for token in tokens:
            if self.stopped:
                break
            self.tokens.append(int(token))
            self._grow(self._stream.add(int(token)))
        if last and not self.stopped:
            self._grow(self._stream.end())
        certain = len(self.text) - (0 if last or self.stopped else self._held_back())
        piece = self.text[self._shown : certain]
        self._shown = max(certain, self._shown)
        return piece

    def _grow(self, piece: str) -> None:
        self.text += piece
        found = [at for stop in self._stop if (at := self.text.find(stop)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.stopped = True

    def _held_back(self) -> int:
        """Length of the end of the text that may turn out to begin a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-length:]) for stop in self._stop):
                return length
        return 0
