"""The metrics of a predicted class, by scikit-learn."""

import numpy as np
from jaxtyping import Int

from lora_jax.evaluation.metrics.samples import check_pairs


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
    check_pairs(predicted, labels)
    return float(np.mean(predicted == labels))


def f1(
    predicted: Int[np.ndarray, " samples"],
    labels: Int[np.ndarray, " samples"],
    *,
    positive: int = 1,
) -> float:
    """Harmonic mean of the precision and the recall of one class, as GLUE has it.

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
    is_predicted, is_true = ((series == positive).astype(int) for series in (predicted, labels))
    return _f1(is_predicted, is_true, average="binary")


def f1_macro(predicted: Int[np.ndarray, " samples"], labels: Int[np.ndarray, " samples"]) -> float:
    """Mean of the F1 of every class that is predicted or present.

    Args:
      predicted: The predicted classes.
      labels: The true classes.

    Returns:
      A number in [0, 1].

    Raises:
      ValueError: If there is no sample, or the lengths differ.

    >>> f1_macro(np.array([1, 1, 0, 0]), np.array([1, 1, 0, 2])).__round__(4)
    0.5556
    """
    return _f1(predicted, labels, average="macro")


def f1_weighted(
    predicted: Int[np.ndarray, " samples"], labels: Int[np.ndarray, " samples"]
) -> float:
    """Mean of the F1 of every class, each weighted by how often it is true.

    Args:
      predicted: The predicted classes.
      labels: The true classes.

    Returns:
      A number in [0, 1].

    Raises:
      ValueError: If there is no sample, or the lengths differ.

    >>> f1_weighted(np.array([1, 1, 0, 0]), np.array([1, 1, 0, 2])).__round__(4)
    0.6667
    """
    return _f1(predicted, labels, average="weighted")


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
    check_pairs(predicted, labels)
    if min(len(np.unique(predicted)), len(np.unique(labels))) == 1:
        return 0.0
    from sklearn.metrics import matthews_corrcoef

    # Rounding may leave the correlation of equal series a hair above one.
    return float(np.clip(matthews_corrcoef(labels, predicted), -1, 1))


def _f1(predicted: np.ndarray, labels: np.ndarray, *, average: str) -> float:
    check_pairs(predicted, labels)
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted, average=average, zero_division=0.0))
