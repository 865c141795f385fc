"""Exact match: the prediction is a reference."""

from collections.abc import Sequence


def exact_match(prediction: str, references: Sequence[str]) -> float:
    r"""Whether a prediction equals a reference, white space at its ends aside.

    Case, punctuation and inner spaces count.

    Args:
      prediction: The text to score.
      references: One or more texts that are right.

    Returns:
      1 or 0.

    >>> exact_match("Paris\n", ["Paris", "Paris, France"])
    1.0
    """
    return float(prediction.strip() in {text.strip() for text in references})
