"""NIST: matching n-grams weighed by how much they tell."""

import collections
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lora_jax.evaluation.metrics.tokens import mteval_tokens

ORDERS = 5
# A prediction of two thirds the length of its references scores half.
_BETA = math.log(2) / math.log(1.5) ** 2


def nist_statistics(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> Float[np.ndarray, "examples 11"]:
    """Numbers from which the NIST score of a corpus follows.

    As in mteval-v13a, and so in the E2E challenge: n-grams of one to five lower-case tokens,
    clipped at the most that any one reference has; the mean length of the references counts. NLTK's
    `corpus_nist` differs: it matches the best single reference. The information of an n-gram is
    that of all references given here, also when examples are then resampled.

    Args:
      predictions: A text for each example.
      references: One or more texts for each.

    Returns:
      For each example the information of its matches and its n-grams, of each order, then the
      mean length of its references.

    Source: Doddington 2002, "Automatic evaluation of machine translation quality using n-gram
    co-occurrence statistics".
    """
    words = [[mteval_tokens(text, lowercase=True) for text in texts] for texts in references]
    information = _information([text for texts in words for text in texts])
    rows = []
    for prediction, texts in zip(predictions, words, strict=True):
        found = mteval_tokens(prediction, lowercase=True)
        row = []
        for order in range(1, ORDERS + 1):
            allowed: collections.Counter[tuple[str, ...]] = collections.Counter()
            for text in texts:
                allowed |= _ngrams(text, order)
            matches = _ngrams(found, order) & allowed
            row.append(sum(count * information[ngram] for ngram, count in matches.items()))
        row += [max(len(found) - order, 0) for order in range(ORDERS)]
        rows.append([*row, sum(map(len, texts)) / len(texts)])
    return np.array(rows, np.float64)


def nist_value(sums: Float[np.ndarray, " 11"]) -> float:
    """NIST score of a corpus.

    Args:
      sums: The sums of `nist_statistics` over the examples.

    Returns:
      A number from 0 upwards, in bits per n-gram; what the references would score themselves
      depends on the corpus.

    >>> texts = ["the Mill is a pub", "the Phoenix is a restaurant"]
    >>> nist_value(nist_statistics(texts, [[text] for text in texts]).sum(axis=0)).__round__(4)
    3.5553
    """
    matched, given, reference_length = sums[:ORDERS], sums[ORDERS:-1], sums[-1]
    if given[0] == 0 or reference_length == 0:
        return 0.0
    shortness = min(given[0] / reference_length, 1.0)
    penalty = math.exp(-_BETA * math.log(shortness) ** 2)
    return float(penalty * np.sum(matched / np.maximum(given, 1)))


def _information(texts: Sequence[Sequence[str]]) -> dict[tuple[str, ...], float]:
    """Bits that the last word of an n-gram tells once those before it are known."""
    counts: collections.Counter[tuple[str, ...]] = collections.Counter()
    for text in texts:
        counts[()] += len(text)
        for order in range(1, ORDERS + 1):
            counts.update(_ngrams(text, order))
    return {
        ngram: math.log2(counts[ngram[:-1]] / count) for ngram, count in counts.items() if ngram
    }


def _ngrams(words: Sequence[str], order: int) -> collections.Counter[tuple[str, ...]]:
    return collections.Counter(zip(*(words[start:] for start in range(order)), strict=False))
