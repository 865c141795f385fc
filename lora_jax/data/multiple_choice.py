"""A question with options to choose from, as a prompt whose answer is the letter of one."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from lora_jax.data.text_task import TextRecord, ask


def choose(question: str, options: Sequence[str], right: int, **others: Any) -> TextRecord:
    """Makes the record of a question with options.

    Args:
      question: the question.
      options: what can be chosen, 2 to 26 texts.
      right: index of the right one.
      **others: fields of `TextRecord`.

    Raises:
      ValueError: `right` is no index of an option, or there are too few or too many.

    >>> print(choose("Is water wet?", ("yes", "no"), 0).prompt)
    Is water wet?
    A. yes
    B. no
    Answer with the letter of the right option.
    """
    letters = string.ascii_uppercase
    if not 2 <= len(options) <= len(letters):
        raise ValueError(f"{len(options)} options: 2 to {len(letters)} are expected")
    if not 0 <= right < len(options):
        raise ValueError(f"the right option has the index {right}, but there are {len(options)}")
    shown = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=False)]
    end = "Answer with the letter of the right option."
    return ask("\n".join((question, *shown, end)), letters[right], **others)
