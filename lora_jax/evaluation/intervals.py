"""How sure a mean over seeds is: confidence intervals of Student's t."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval; the ends are nan for a single value."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """What to write after the ±."""
        return (self.high - self.low) / 2

    def contains(self, value: float) -> bool:
        """Tell whether a value lies in the interval, its ends included."""
        return self.low <= value <= self.high


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of a few independent values, such as the accuracies of several seeds.

    Args:
      values: One value a seed.
      confidence: How often such an interval holds the true mean, in (0, 1).

    Returns:
      The mean ± t · s / √n. A single value has no interval: its ends are nan.

    Raises:
      ValueError: If there is no value, or the confidence is not in (0, 1).

    Source: Student 1908, "The probable error of a mean".

    >>> interval = mean_interval([0.78, 0.80, 0.82])
    >>> f"{interval.mean:.2f} ± {interval.half_width:.3f}"
    '0.80 ± 0.050'
    """
    sample = _checked(values, confidence)
    freedom = len(sample) - 1
    error = math.sqrt(sample.var(ddof=1) / len(sample)) if freedom else math.nan
    return _around(float(sample.mean()), error, freedom, confidence)


def paired_interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Difference of scores that come in pairs, one of each system for a seed: what they share goes.

    Args:
      first: One value a seed.
      second: The values of the other system, in the order of the same seeds.

    Returns:
      The mean of first - second and its 95 % interval, as `mean_interval`.

    Raises:
      ValueError: If the numbers of values differ, or there is none.

    >>> round(paired_interval([0.9, 0.8], [0.8, 0.6]).mean, 3)
    0.15
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} scores and {len(second)} do not come in pairs")
    return mean_interval(np.subtract(first, second).tolist())


def difference_interval(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95
) -> Interval:
    """Difference of the means of two independent samples, whose spreads may differ.

    The two can be told apart when the interval does not contain zero.

    Args:
      first: One value a seed.
      second: One value a seed; the numbers of seeds may differ.
      confidence: How often such an interval holds the true difference, in (0, 1).

    Returns:
      mean(first) - mean(second) and its interval; the ends are nan if either has a single value.

    Raises:
      ValueError: If a sample is empty, or the confidence is not in (0, 1).

    Source: Welch 1947, "The generalization of Student's problem when several different
    population variances are involved".

    >>> difference_interval([0.80, 0.82, 0.81], [0.60, 0.63, 0.61]).contains(0)
    False
    """
    x, y = _checked(first, confidence), _checked(second, confidence)
    difference = float(x.mean() - y.mean())
    if min(len(x), len(y)) == 1:
        return Interval(difference, math.nan, math.nan)
    terms = np.array([x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)])
    error = math.sqrt(terms.sum())
    if error == 0:
        return Interval(difference, difference, difference)
    freedom = terms.sum() ** 2 / (terms**2 / [len(x) - 1, len(y) - 1]).sum()
    return _around(difference, error, float(freedom), confidence)


def _checked(values: Sequence[float], confidence: float) -> np.ndarray:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), not {confidence}")
    if len(values) == 0:
        raise ValueError("an interval needs at least one value")
    return np.asarray(values, np.float64)


def _around(mean: float, error: float, freedom: float, confidence: float) -> Interval:
    half = float(stdtrit(freedom, (1 + confidence) / 2)) * error if freedom else math.nan
    return Interval(mean, mean - half, mean + half)
