"""Whether two systems that were run with the same seeds differ, and what many tests amount to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lora_jax.evaluation.intervals import Interval, difference_interval, paired_interval


class Difference(NamedTuple):
    """What one system scores more than another.

    Attributes:
      interval: mean difference and its 95 % interval.
      p: of Student's t: that the true difference is zero; nan where it cannot be told.
      p_wilcoxon: of the signed ranks, which assume no normal distribution; nan without pairs.
      pairs: seeds that both were run with; 0 if the two are compared unpaired.
    """

    interval: Interval
    p: float
    p_wilcoxon: float
    pairs: int


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compares scores that come in pairs, one of each system for a seed.

    Args:
      first: a score for each seed.
      second: the scores of the other system, in the order of the same seeds.

    Returns:
      The first less the second. From one pair follows no interval; pairs that differ all alike have
      no p of Student's t.

    Raises:
      ValueError: the numbers of scores differ, or there is none.

    Source: Student 1908; Wilcoxon 1945, exact for few pairs.

    >>> found = paired_difference([0.81, 0.84, 0.80], [0.78, 0.80, 0.77])
    >>> f"{found.interval.mean:.3f}, p = {found.p:.3f}, {found.p_wilcoxon:.2f}"
    '0.033, p = 0.010, 0.25'
    """
    from scipy.stats import ttest_1samp, wilcoxon

    interval = paired_interval(first, second)
    differences = np.subtract(first, second)
    if np.allclose(differences, 0, atol=1e-12):
        return Difference(interval, 1.0, 1.0, len(differences))
    if len(differences) < 2:
        return Difference(interval, math.nan, math.nan, len(differences))
    varies = np.ptp(differences) > 1e-12 * np.abs(differences).max()
    p = float(ttest_1samp(differences, 0).pvalue) if varies else math.nan
    # Equal scores are left out of the ranks, as Wilcoxon did.
    p_wilcoxon = float(wilcoxon(differences[np.abs(differences) > 1e-12]).pvalue)
    return Difference(interval, p, p_wilcoxon, len(differences))


def unpaired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compares scores of different seeds.

    Args:
      first: a score for each seed.
      second: the scores of the other system, in any number.

    Returns:
      The first less the second, by Welch's test; it has no interval if either has a single score.

    Raises:
      ValueError: either has no score.

    Source: Welch 1947.
    """
    from scipy.stats import ttest_ind

    interval = difference_interval(first, second)
    varies = min(len(first), len(second)) > 1 and max(np.ptp(first), np.ptp(second)) > 1e-12
    p = float(ttest_ind(first, second, equal_var=False).pvalue) if varies else math.nan
    return Difference(interval, p, math.nan, 0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for the number of tests: below 0.05 any is wrong once in twenty times.

    Args:
      p_values: of tests that belong together; nan for one that could not be made.

    Returns:
      The corrected ones, in the same order; nan stays and counts as no test.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, np.float64)
    made = np.flatnonzero(~np.isnan(values))
    order = made[np.argsort(values[made], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    values[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in values]
