"""ANLS: how near an answer read from a document comes to a right one."""

from collections.abc import Sequence


def anls(prediction: str, references: Sequence[str]) -> float:
    """Normalised Levenshtein similarity to the nearest reference, 0 where it is below a half.

    Letters are compared in lower case, with runs of white space as one space. As in the paper, an
    answer at a normalised distance of exactly τ = 0.5 scores 0; the script of the DocVQA challenge
    gives it 0.5.

    Args:
      prediction: The answer to score.
      references: One or more right answers.

    Returns:
      A number in {0} and (0.5, 1].

    Source: Biten et al. 2019, "Scene text visual question answering", equation 1; Mathew et al.
    2021, "DocVQA: a dataset for VQA on document images".

    >>> anls("Jahor Bahru", ["JOHOR BAHRU", "Johor"]).__round__(4)
    0.9091
    """
    answer = _normal(prediction)
    return max(_similarity(answer, _normal(text)) for text in references)


def _similarity(answer: str, reference: str) -> float:
    longest = max(len(answer), len(reference))
    if longest == 0:
        return 1.0
    # The distance is at least the difference of the lengths.
    if abs(len(answer) - len(reference)) / longest >= 0.5:
        return 0.0
    from nltk.metrics import edit_distance

    distance = edit_distance(answer, reference) / longest
    return 1 - distance if distance < 0.5 else 0.0


def _normal(text: str) -> str:
    return " ".join(text.lower().split())
