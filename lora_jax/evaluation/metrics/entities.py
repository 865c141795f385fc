"""Entities read from a document: how many are exactly right."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from lora_jax.evaluation.metrics.json_answers import predicted_object, reference_object


def entity_statistics(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> Float[np.ndarray, "examples 3"]:
    """Counts of entities, as in the key information extraction of SROIE (task 3).

    Texts are JSON objects of an entity's name and its text, such as {"total": "9.00"}. An entity
    is right if its name and its text are equal to the reference's, white space at the ends
    aside. One without text counts as absent; a prediction that is no JSON object has none. Of
    several references, the one that gives the highest F1.

    Args:
      predictions: A JSON object for each example.
      references: One or more JSON objects for each.

    Returns:
      For each example how many entities are right, predicted, and true.

    Raises:
      ValueError: If a reference is not a JSON object.

    Source: Huang et al. 2019, "ICDAR2019 competition on scanned receipt OCR and information
    extraction", section 2.3.

    >>> entity_statistics(['{"total": "9.00", "date": ""}'], [['{"total": "9.00", "date": "1/2"}']])
    array([[1., 1., 2.]])
    """
    rows = []
    for prediction, texts in zip(predictions, references, strict=True):
        found = _entities(predicted_object(prediction))
        true = [_entities(reference_object(text)) for text in texts]
        counts = [[len(found & right), len(found), len(right)] for right in true]
        rows.append(max(counts, key=lambda row: entity_f1_value(np.array(row, np.float64))))
    return np.array(rows, np.float64)


def entity_precision_value(sums: Float[np.ndarray, " 3"]) -> float:
    """Share in [0, 1] of the predicted entities that are right; 0 where none is predicted."""
    return float(sums[0] / sums[1]) if sums[1] else 0.0


def entity_recall_value(sums: Float[np.ndarray, " 3"]) -> float:
    """Share in [0, 1] of the true entities that are found; 1 where there is none to find."""
    return float(sums[0] / sums[2]) if sums[2] else 1.0


def entity_f1_value(sums: Float[np.ndarray, " 3"]) -> float:
    """Harmonic mean of precision and recall over all entities, in [0, 1]."""
    named = sums[1] + sums[2]
    return float(2 * sums[0] / named) if named else 1.0


def _entities(fields: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(name, str(text).strip()) for name, text in fields.items() if str(text or "").strip()}
