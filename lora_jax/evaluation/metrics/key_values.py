"""Key/value overlap of JSON objects, nested ones included."""

import collections
import json
from collections.abc import Iterator, Sequence
from typing import Any

from lora_jax.evaluation.metrics.json_answers import predicted_object, reference_object


def key_value_overlap(prediction: str, references: Sequence[str]) -> float:
    """F1 of the pairs of a key and a value shared with the best reference.

    A pair is the path of keys to a value and the value itself. The items of a list are so many
    values of one path, whatever their order. Texts are compared in lower case, with runs of white
    space as one space; a number is not the text that spells it. A prediction that is no JSON object
    has no pairs.

    The score named "key/value overlap" for the metadata of CoCoHD's hearings is not defined in
    print: this definition is ours.

    Args:
      prediction: A JSON object.
      references: One or more JSON objects.

    Returns:
      A number in [0, 1].

    Raises:
      ValueError: If a reference is not a JSON object.

    >>> right = '{"chamber": "House", "members": ["Ann Lee", "Bo Day"]}'
    >>> key_value_overlap('{"chamber": "house", "members": ["Bo Day"]}', [right])
    0.8
    """
    found = collections.Counter(_pairs(predicted_object(prediction)))
    return max(
        _overlap(found, collections.Counter(_pairs(reference_object(text)))) for text in references
    )


def _overlap(found: collections.Counter[Any], right: collections.Counter[Any]) -> float:
    named = found.total() + right.total()
    return 2 * (found & right).total() / named if named else 1.0


def _pairs(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _pairs(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner, path)
    else:
        text = " ".join(value.lower().split()) if isinstance(value, str) else value
        yield path, json.dumps(text)
