"""BLEU, by sacrebleu."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float


def bleu_statistics(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, lowercase: bool = False
) -> Float[np.ndarray, "examples 10"]:
    """Counts from which the BLEU of a corpus follows.

    N-grams of one to four tokens of mteval-v13a; the matches are clipped at the most that any
    one reference has, and the reference that is closest in length counts for brevity.

    Args:
      predictions: A text for each example.
      references: One or more texts for each.
      lowercase: Whether case is ignored, as in the scripts of the E2E challenge.

    Returns:
      For each example the matches and the n-grams, of each order, then both lengths.

    Source: Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation".
    """
    scorer = _scorer(lowercase)
    scores = [
        scorer.corpus_score([text], [[reference] for reference in texts])
        for text, texts in zip(predictions, references, strict=True)
    ]
    counts = [[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores]
    return np.array(counts, np.float64)


def bleu_value(sums: Float[np.ndarray, " 10"]) -> float:
    """BLEU of a corpus, smoothed as mteval-v13a does where an order has no match.

    Args:
      sums: The sums of `bleu_statistics` over the examples.

    Returns:
      A number in [0, 100].

    >>> text = ["the Mill is a cheap pub by the river"]
    >>> bleu_value(bleu_statistics(text, [text]).sum(axis=0))
    100.0
    """
    counts = sums.round().astype(int).tolist()
    score = _scorer(False).compute_bleu(
        counts[:4], counts[4:8], counts[8], counts[9], smooth_method="exp"
    )
    # Rounding may leave the score of equal texts a hair above the maximum.
    return min(float(score.score), 100.0)


@functools.cache
def _scorer(lowercase: bool) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(lowercase=lowercase, tokenize="13a", smooth_method="exp")
