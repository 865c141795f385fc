"""The metrics of GLUE and of classification, on numpy arrays."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Int, Num


def accuracy(predicted: Int[np.ndarray, " samples"], labels: Int[np.ndarray, " samples"]) -> float:
    """Share of the samples whose class is predicted.

    Args:
      predicted: The predicted classes.
      labels: The true classes.

    Returns:
      A share in [0, 1].

    Raises:
      ValueError: If there is no sample, or the lengths differ.

    >>> accuracy(np.array([1, 0, 2, 2]), np.array([1, 0, 2, 1]))
    0.75
    """
    _check_pairs(predicted, labels)
    return float(np.mean(predicted == labels))


def f1(
    predicted: Int[np.ndarray, " samples"],
    labels: Int[np.ndarray, " samples"],
    *,
    positive: int = 1,
) -> float:
    """Harmonic mean of the precision and the recall of one class.

    Args:
      predicted: The predicted classes.
      labels: The true classes.
      positive: The class that is looked for. All others count as negative.

    Returns:
      A number in [0, 1]; 0 where the class is neither predicted nor present.

    Raises:
      ValueError: If there is no sample, or the lengths differ.

    >>> f1(np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0]))
    0.5
    """
    _check_pairs(predicted, labels)
    hits = np.sum((predicted == positive) & (labels == positive))
    named = np.sum(predicted == positive) + np.sum(labels == positive)
    return float(2 * hits / named) if named else 0.0


def matthews(predicted: Int[np.ndarray, " samples"], labels: Int[np.ndarray, " samples"]) -> float:
    """Correlation of the predicted with the true classes, for any number of classes.

    Args:
      predicted: The predicted classes.
      labels: The true classes.

    Returns:
      A number in [-1, 1]; 0 where either side names a single class only.

    Raises:
      ValueError: If there is no sample, or the lengths differ.

    Source: Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation
    coefficient", equation 8.

    >>> matthews(np.array([1, 1, 0, 0]), np.array([1, 1, 0, 0]))
    1.0
    """
    _check_pairs(predicted, labels)
    classes = np.union1d(predicted, labels)
    predicted_is = (predicted[:, None] == classes).astype(np.float64)
    label_is = (labels[:, None] == classes).astype(np.float64)
    return _correlation(predicted_is, label_is, undefined=0.0)


def pearson(predicted: Num[np.ndarray, " samples"], labels: Num[np.ndarray, " samples"]) -> float:
    """Linear correlation of two series.

    Args:
      predicted: The predicted scores.
      labels: The true scores.

    Returns:
      A number in [-1, 1]; nan where either series is constant, as it then has no correlation.

    Raises:
      ValueError: If there is no sample, or the lengths differ.

    >>> pearson(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    1.0
    """
    _check_pairs(predicted, labels)
    columns = (np.asarray(series, np.float64)[:, None] for series in (predicted, labels))
    return _correlation(*columns, undefined=np.nan)


def spearman(predicted: Num[np.ndarray, " samples"], labels: Num[np.ndarray, " samples"]) -> float:
    """Linear correlation of the ranks of two series; tied values share their mean rank.

    Args:
      predicted: The predicted scores.
      labels: The true scores.

    Returns:
      A number in [-1, 1]; nan where either series is constant.

    Raises:
      ValueError: If there is no sample, or the lengths differ.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 10.0, 100.0]))
    1.0
    """
    _check_pairs(predicted, labels)
    return pearson(_mean_ranks(predicted), _mean_ranks(labels))


METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
"""Every metric by the name that a task gives it."""


def _check_pairs(predicted: np.ndarray, labels: np.ndarray) -> None:
    if predicted.shape != labels.shape:
        raise ValueError(f"{predicted.shape} predictions for {labels.shape} labels")
    if predicted.size == 0:
        raise ValueError("a metric of no sample at all has no value")


def _correlation(x: np.ndarray, y: np.ndarray, *, undefined: float) -> float:
    """Correlate two [samples, columns] arrays, summed over the columns."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    scale = np.sqrt(np.sum(x * x) * np.sum(y * y))
    # Rounding may leave the correlation of equal series a hair above one.
    return float(np.clip(np.sum(x * y) / scale, -1, 1)) if scale else undefined


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[place]
