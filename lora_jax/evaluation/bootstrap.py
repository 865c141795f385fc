"""How sure a metric over a test set is, or a difference of two: percentiles of the bootstrap."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lora_jax.evaluation.intervals import Interval
from lora_jax.evaluation.metrics import TextMetric


def bootstrap_interval(
    metric: Callable[[Any, Any], float],
    predictions: Any,
    references: Any,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Value of a metric and the interval that other test sets of the same kind would give.

    Test sets of the same size are drawn from the examples with replacement. A `TextMetric` is
    computed from the statistics of each example, taken once: the texts are not read again.

    Args:
      metric: A metric of labels, or a `TextMetric`.
      predictions: Its first argument, over all examples.
      references: Its second.
      confidence: How often such an interval holds the value for all texts, in (0, 1).
      resamples: How many test sets to draw.
      seed: Of the draws; the same seed draws the same examples.

    Returns:
      The value over the given examples as the `mean`, and the percentiles of the resampled values
      as the ends: nan where the metric has no value on any resample, such as the correlation with
      a constant.

    Raises:
      ValueError: If the confidence is not in (0, 1), fewer than one resample is asked for, or the
        metric refuses the arguments.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife"; Koehn 2004, "Statistical
    significance tests for machine translation evaluation".

    >>> from lora_jax.evaluation import accuracy
    >>> labels = np.arange(400) % 2
    >>> interval = bootstrap_interval(accuracy, np.zeros(400, int), labels)
    >>> f"{interval.mean:.2f} ± {interval.half_width:.2f}"
    '0.50 ± 0.05'
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), not {confidence}")
    if resamples < 1:
        raise ValueError(f"an interval needs at least one resample, not {resamples}")
    of_rows, examples = _on_rows(metric, predictions, references)
    whole = of_rows(np.arange(examples))
    random = np.random.default_rng(seed)
    draws = (random.integers(examples, size=examples) for _ in range(resamples))
    values = np.array([of_rows(rows) for rows in draws])
    defined = values[~np.isnan(values)]
    if defined.size == 0:
        return Interval(whole, math.nan, math.nan)
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(whole, float(low), float(high))


def bootstrap_difference(
    metric: Callable[[Any, Any], float],
    first: Sequence[Any],
    second: Sequence[Any],
    references: Any,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Interval, float]:
    """How much better one system does than another on the same examples, and how surely.

    Each draw of examples scores both systems, so that what makes an example hard cancels.

    Args:
      metric: A metric of labels, or a `TextMetric`.
      first: The predictions over all examples, once for each seed of a system: the metric's mean
        over the seeds counts.
      second: The same of the other system.
      references: What is right.
      confidence: How often such an interval holds the difference for all texts, in (0, 1).
      resamples: How many test sets to draw.
      seed: Of the draws.

    Returns:
      The first less the second, with the percentiles of its resampled values as ends; and the
      two-sided p-value that they do equally well, which is never below 1 / (resamples + 1).

    Raises:
      ValueError: If the confidence is not in (0, 1), fewer than one resample is asked for, a system
        has no predictions, or the metric refuses the arguments.

    Source: Koehn 2004, "Statistical significance tests for machine translation evaluation".

    >>> from lora_jax.evaluation import accuracy
    >>> labels = np.arange(200) % 2
    >>> better, p = bootstrap_difference(accuracy, [labels], [np.zeros(200, int)], labels)
    >>> round(better.mean, 2), p < 0.01
    (0.5, True)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), not {confidence}")
    if resamples < 1 or not len(first) or not len(second):
        raise ValueError(
            f"a difference needs predictions of both and a resample, not {len(first)}, "
            f"{len(second)} and {resamples}"
        )
    ours, theirs = ([_on_rows(metric, made, references) for made in s] for s in (first, second))
    examples = ours[0][1]

    def difference(rows: np.ndarray) -> float:
        mean = lambda systems: np.mean([of_rows(rows) for of_rows, _ in systems])
        return float(mean(ours) - mean(theirs))

    whole = difference(np.arange(examples))
    random = np.random.default_rng(seed)
    draws = (random.integers(examples, size=examples) for _ in range(resamples))
    values = np.array([difference(rows) for rows in draws])
    defined = values[~np.isnan(values)]
    if defined.size == 0:
        return Interval(whole, math.nan, math.nan), math.nan
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    # Both tails, each with the data themselves counted in (Davison & Hinkley 1997, section 4.2).
    tails = [(np.sum(side) + 1) / (defined.size + 1) for side in (defined <= 0, defined >= 0)]
    return Interval(whole, float(low), float(high)), float(min(1.0, 2 * min(tails)))


def _on_rows(
    metric: Callable[[Any, Any], float], predictions: Any, references: Any
) -> tuple[Callable[[np.ndarray], float], int]:
    """The metric as a function of which examples count, and how many examples there are."""
    if isinstance(metric, TextMetric):
        statistics = metric.per_example(predictions, references)
        return functools.partial(_of_sums, metric, statistics), len(statistics)
    metric(predictions, references)  # Refuses wrong arguments before any is indexed.
    return lambda rows: metric(predictions[rows], references[rows]), len(predictions)


def _of_sums(metric: TextMetric, statistics: np.ndarray, rows: np.ndarray) -> float:
    # How often each example counts, in place of a copy of its numbers for each time.
    times = np.bincount(rows, minlength=len(statistics))
    return metric.value(times @ statistics)
