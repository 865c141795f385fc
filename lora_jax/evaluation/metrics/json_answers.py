"""Answers that are a JSON object, as a model writes them."""

import json
import re
from collections.abc import Mapping
from typing import Any

_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n\s*```\s*", re.DOTALL)


def predicted_object(text: str) -> Mapping[str, Any]:
    """The object that a generated text spells, alone or in a Markdown fence; else an empty one.

    >>> predicted_object('{"total": "9.00"}')
    {'total': '9.00'}
    >>> predicted_object("The total is 9.00.")
    {}
    """
    fenced = _FENCE.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def reference_object(text: str) -> Mapping[str, Any]:
    """The object that a reference spells.

    Raises:
      ValueError: If it is not a JSON object.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"a reference is not JSON ({error}): {text!r}") from None
    if not isinstance(value, dict):
        raise ValueError(f"a reference is not a JSON object: {text!r}")
    return value
