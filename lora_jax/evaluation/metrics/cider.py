"""CIDEr: how alike two captions are in the n-grams that few other examples share."""

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lora_jax.evaluation.metrics.text_metric import scores_to_average
from lora_jax.evaluation.metrics.tokens import caption_tokens

ORDERS = 4
_SIGMA = 6.0


class _Caption(NamedTuple):
    """Weights of its n-grams, of each order, their norms, and its number of pairs of words."""

    weights: list[dict[tuple[str, ...], float]]
    norms: list[float]
    length: int


def cider_statistics(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> Float[np.ndarray, "examples 2"]:
    """CIDEr-D of each example, beside a one.

    N-grams of one to four tokens (`caption_tokens`), unstemmed, are weighed by tf-idf over the
    references of all examples given here, also when examples are then resampled. Similarity is
    a cosine with clipped counts and a Gaussian penalty on the difference of lengths (σ = 6), the
    mean over the orders and over the references, times ten: coco-caption's, which the E2E
    challenge reports as CIDEr.

    Args:
      predictions: A text for each example.
      references: One or more texts for each.

    Returns:
      For each example a score in [0, 10], and a one. An n-gram that every example has weighs
      nothing, so a single example scores 0; a text of fewer than four words cannot reach 10.

    Source: Vedantam et al. 2015, "CIDEr: consensus-based image description evaluation",
    equations 1 to 4 and section 7.

    >>> texts = ["the Mill is a cheap pub", "a coffee shop by the river"]
    >>> cider_statistics(texts, [[text] for text in texts]).tolist()
    [[10.0, 1.0], [10.0, 1.0]]
    """
    counted = [[_ngrams(text) for text in texts] for texts in references]
    spread = collections.Counter(ngram for texts in counted for ngram in set().union(*texts))
    examples = len(references)
    scores = []
    for prediction, texts in zip(predictions, counted, strict=True):
        caption = _caption(_ngrams(prediction), spread, examples)
        likeness = [_similarity(caption, _caption(text, spread, examples)) for text in texts]
        scores.append(10 * sum(likeness) / len(likeness))
    return scores_to_average(np.array(scores, np.float64))


def _ngrams(text: str) -> collections.Counter[tuple[str, ...]]:
    words = caption_tokens(text)
    return collections.Counter(
        tuple(words[start : start + order])
        for order in range(1, ORDERS + 1)
        for start in range(len(words) - order + 1)
    )


def _caption(
    counts: collections.Counter[tuple[str, ...]],
    spread: collections.Counter[tuple[str, ...]],
    examples: int,
) -> _Caption:
    weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDERS)]
    for ngram, count in counts.items():
        rarity = math.log(examples) - math.log(max(1, spread[ngram]))
        weights[len(ngram) - 1][ngram] = count * rarity
    norms = [math.sqrt(sum(weight**2 for weight in order.values())) for order in weights]
    # The original takes the number of pairs of words for the length; so does every published score.
    return _Caption(weights, norms, sum(n for ngram, n in counts.items() if len(ngram) == 2))


def _similarity(caption: _Caption, reference: _Caption) -> float:
    total = 0.0
    for order in range(ORDERS):
        ours, theirs = caption.weights[order], reference.weights[order]
        norm = caption.norms[order] * reference.norms[order]
        if norm:
            shared = (
                min(ours[ngram], theirs[ngram]) * theirs[ngram] for ngram in ours.keys() & theirs
            )
            total += sum(shared) / norm
    difference = caption.length - reference.length
    return total / ORDERS * math.exp(-(difference**2) / (2 * _SIGMA**2))
