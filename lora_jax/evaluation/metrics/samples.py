"""What is asked of the samples of any metric: some, and as many predictions as truths."""

from collections.abc import Sequence

import numpy as np


def check_pairs(predicted: np.ndarray, labels: np.ndarray) -> None:
    """Checks predicted classes or scores against the true ones.

    Raises:
      ValueError: If there is no sample, or the shapes differ.
    """
    if predicted.shape != labels.shape:
        raise ValueError(f"{predicted.shape} predictions for {labels.shape} labels")
    if predicted.size == 0:
        raise ValueError("a metric of no sample at all has no value")


def check_texts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Checks generated texts against the references of each.

    Raises:
      ValueError: If there is no example, the lengths differ, an example has no reference, or its
        references are one bare text, whose letters would count as references.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    if len(predictions) == 0:
        raise ValueError("a metric of no sample at all has no value")
    for index, texts in enumerate(references):
        if isinstance(texts, str):
            raise ValueError(
                f"the references of example {index} are one text, {texts!r}; "
                "give a list of texts, even for a single one"
            )
        if not texts:
            raise ValueError(f"example {index} has no reference")
