"""The metrics of a predicted score, by SciPy."""

import numpy as np
from jaxtyping import Num

from lora_jax.evaluation.metrics.samples import check_pairs


def pearson(predicted: Num[np.ndarray, " samples"], labels: Num[np.ndarray, " samples"]) -> float:
    """Linear correlation of two series.

    Args:
      predicted: The predicted scores.
      labels: The true scores.

    Returns:
      A number in [-1, 1]; nan where either series is constant, as it then has no correlation.

    Raises:
      ValueError: If there is no sample, or the lengths differ.

    >>> pearson(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 3.0])).__round__(4)
    0.5
    """
    check_pairs(predicted, labels)
    if _constant(predicted) or _constant(labels):
        return np.nan
    from scipy.stats import pearsonr

    # In float64: half precision cannot even hold the sum of a long series.
    return float(pearsonr(predicted.astype(np.float64), labels.astype(np.float64)).statistic)


def spearman(predicted: Num[np.ndarray, " samples"], labels: Num[np.ndarray, " samples"]) -> float:
    """Linear correlation of the ranks of two series; tied values share their mean rank.

    Args:
      predicted: The predicted scores.
      labels: The true scores.

    Returns:
      A number in [-1, 1]; nan where either series is constant.

    Raises:
      ValueError: If there is no sample, or the lengths differ.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 100.0, 10.0])).__round__(4)
    0.5
    """
    check_pairs(predicted, labels)
    from scipy.stats import rankdata

    return pearson(rankdata(predicted), rankdata(labels))


def _constant(series: np.ndarray) -> bool:
    return bool(np.all(series == series[0]))
