"""JSON: an object a line, or one array of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_jax.data.readers.row import Row
from lora_jax.data.readers.text import read_lines, read_text


def read_json_lines(path: Path) -> Iterator[Row]:
    """Reads a file with one JSON object a line.

    Yields:
      Rows with their places; empty lines are none.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: it is not UTF-8.
    """
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            yield _parse(line), f"{path}, line {number}"


def read_json(path: Path) -> Any:
    """Reads a file that is one JSON value.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: it is not UTF-8, or no JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: no JSON: {error.msg}") from error


def read_json_rows(path: Path) -> Iterator[Row]:
    """Reads a file that is one array of objects, or one object a line: either is named .json.

    Yields:
      Rows with their places: "entry 1" is the first of an array.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: it is not UTF-8, or no JSON.
    """
    if not read_text(path).lstrip().startswith("["):
        yield from read_json_lines(path)
        return
    for number, value in enumerate(read_json(path), 1):
        yield _object(value), f"{path}, entry {number}"


def _parse(line: str) -> dict[str, Any] | ValueError:
    try:
        return _object(json.loads(line))
    except json.JSONDecodeError as error:
        return ValueError(f"no JSON: {error.msg} at character {error.colno}")


def _object(value: Any) -> dict[str, Any] | ValueError:
    if isinstance(value, dict):
        return value
    return ValueError(f"expected a JSON object, found {str(value)[:40]!r}")
