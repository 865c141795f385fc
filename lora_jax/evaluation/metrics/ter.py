"""TER: how many edits turn a text into a reference, by sacrebleu."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float


def ter_statistics(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> Float[np.ndarray, "examples 2"]:
    """Counts from which the translation edit rate of a corpus follows.

    An edit inserts, deletes or replaces a word, or moves a run of words. Words end at white space;
    case is ignored, punctuation is not. The reference that is nearest in edits counts.

    Args:
      predictions: A text for each example.
      references: One or more texts for each.

    Returns:
      For each example its edits, and the mean number of words of its references.

    Source: Snover et al. 2006, "A study of translation edit rate with targeted human annotation".
    """
    scorer = _scorer()
    scores = [
        scorer.corpus_score([text], [[reference] for reference in texts])
        for text, texts in zip(predictions, references, strict=True)
    ]
    return np.array([[score.num_edits, score.ref_length] for score in scores], np.float64)


def ter_value(sums: Float[np.ndarray, " 2"]) -> float:
    """Translation edit rate of a corpus.

    Args:
      sums: The sums of `ter_statistics` over the examples.

    Returns:
      Edits for a hundred words of the references, from 0, the best, upwards.

    >>> ter_value(ter_statistics(["a pub the Mill"], [["the Mill a cheap pub"]]).sum(axis=0))
    40.0
    """
    edits, words = sums.tolist()
    if words == 0:
        return 100.0 if edits else 0.0
    return 100 * edits / words


@functools.cache
def _scorer() -> Any:
    from sacrebleu.metrics.ter import TER

    return TER()
