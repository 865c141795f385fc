"""What a metric of generated texts is: numbers for each example, and a value of their sums."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from lora_jax.evaluation.metrics.samples import check_texts


@dataclasses.dataclass(frozen=True)
class TextMetric:
    """A metric of generated texts, each with one or more references.

    The value depends on the sums of a few numbers over the examples: counts of n-grams for BLEU, a
    score and a one for a mean. So a resample of the examples costs one weighted sum, not another
    pass over the texts.

    Attributes:
      statistics: The numbers of each example, from its prediction and its references.
      value: The metric, from the sums of those numbers over the examples.
      higher_is_better: False for a count of errors, such as TER.
    """

    statistics: Callable[
        [Sequence[str], Sequence[Sequence[str]]], Float[np.ndarray, "examples numbers"]
    ]
    value: Callable[[Float[np.ndarray, " numbers"]], float]
    higher_is_better: bool = True

    def __call__(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """Value of the metric over all examples.

        Args:
          predictions: A generated text for each example; it may be empty.
          references: The texts that would be right, one or more for each example.

        Returns:
          The value, in the unit and the range of the metric.

        Raises:
          ValueError: If there is no example, the lengths differ, or an example has no reference.
        """
        return self.value(self.per_example(predictions, references).sum(axis=0))

    def per_example(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> Float[np.ndarray, "examples numbers"]:
        """The statistics of examples that were checked; arguments and errors of a call."""
        check_texts(predictions, references)
        return self.statistics(predictions, references)


def mean_of(score: Callable[[str, Sequence[str]], float]) -> TextMetric:
    """Metric that is the mean over the examples of a score of one prediction.

    Args:
      score: The score of one prediction beside its references.

    Returns:
      The metric.

    >>> starts = mean_of(lambda text, references: float(references[0].startswith(text)))
    >>> starts(["lo", "ra", "ja"], [["lora"], ["lora"], ["jax"]]).__round__(2)
    0.67
    """

    def statistics(
        predictions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> Float[np.ndarray, "examples 2"]:
        scores = [score(*pair) for pair in zip(predictions, references, strict=True)]
        return scores_to_average(np.array(scores, np.float64))

    return TextMetric(statistics, average)


def scores_to_average(scores: Float[np.ndarray, " examples"]) -> Float[np.ndarray, "examples 2"]:
    """The statistics of a mean: each score beside a one, to count the examples."""
    return np.stack([scores, np.ones_like(scores)], axis=1)


def average(sums: Float[np.ndarray, " 2"]) -> float:
    """Mean, from the sum of the scores and the number of examples."""
    return float(sums[0] / sums[1])
