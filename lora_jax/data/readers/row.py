"""A row of a file: its fields by their names, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, Any]

# A row that is malformed is handed on as the error, so that whoever reads decides what to do: one
# bad row ends neither the file nor the reading of it.
Row = tuple[Fields | ValueError, str]


def text(fields: Fields, name: str, *, empty: bool = False) -> str:
    """Takes a field that is a text.

    Args:
      fields: of a row.
      name: of the field.
      empty: whether it may be empty, or null.

    Raises:
      ValueError: it is missing, empty, or no text.

    >>> text({"question": "How many?"}, "question")
    'How many?'
    """
    if name not in fields:
        raise ValueError(f"no field {name!r}; found: {', '.join(fields)}")
    value = fields[name]
    if value is None:
        value = ""
    if not isinstance(value, str):
        raise ValueError(f"field {name!r} is {value!r}, which is no text")
    if not empty and not value.strip():
        raise ValueError(f"field {name!r} is empty")
    return value
