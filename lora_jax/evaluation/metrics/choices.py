"""The letter that a generated text chooses in a multiple-choice question."""

import re
from collections.abc import Sequence

_PATTERNS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"(?i:answer is):?\s*\**\(?([A-E])\b",
        r"(?i:answer):\s*\**\(?([A-E])\b",
        # A bare letter, or the option copied with its letter.
        r"^\s*\(?([A-E])(?:[.):]|\s*$)",
        # The last letter that stands alone; "A" before a word is an article.
        r".*\b(?!A\s+[a-z])([A-E])\b",
    )
)


def choice(prediction: str, references: Sequence[str]) -> float:
    """Whether a text chooses the right option, as asked by MedMCQA, MMLU and ARC.

    The choice is a letter from A to E: after "answer is" or "answer:", else at the start of
    the text ("B", "(B) aspirin", "B. aspirin"), else the last one that stands alone. The order is
    MMLU-Pro's, to which the start of the text is added. A text without such a letter is wrong.

    Args:
      prediction: The generated text.
      references: The right letter, or an option with its letter; several if all are right.

    Returns:
      1 or 0.

    Raises:
      ValueError: If a reference names no letter.

    Source: Wang et al. 2024, "MMLU-Pro: a more robust and challenging multi-task language
    understanding benchmark", and `extract_answer` of its repository.

    >>> choice("A pain killer is meant, so the answer is (C).", ["C"])
    1.0
    """
    right = set()
    for text in references:
        letter = _letter(text)
        if letter is None:
            raise ValueError(f"a reference names no option from A to E: {text!r}")
        right.add(letter)
    return float(_letter(prediction) in right)


def _letter(text: str) -> str | None:
    matches = (pattern.search(text) for pattern in _PATTERNS)
    return next((match[1] for match in matches if match), None)
