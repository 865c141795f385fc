"""results.json: what a program reads of a run."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lora_jax.training.workdir import write_text


def write_results(path: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Write the results of a run as strict JSON, in one step.

    Args:
      path: The file, usually WORKDIR/results.json.
      results: Nested mappings and sequences of numbers, strings, arrays, NamedTuples (written as
        objects), dataclasses and paths. nan and infinity, which JSON lacks, become null.

    Raises:
      TypeError: If a value is of another kind. It names the value's place.
      OSError: If the file cannot be written. An older one is unharmed.
    """
    plain = to_plain(results)
    write_text(Path(path), json.dumps(plain, indent=2, allow_nan=False) + "\n")


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_results` wrote.

    Args:
      path: The file.

    Returns:
      Nested dicts and lists.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If it holds no JSON object, as when it was cut short.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not complete JSON: {error}") from error
    if not isinstance(results, dict):
        raise ValueError(f"{path} holds a JSON {type(results).__name__}, not an object")
    return results


def to_plain(value: Any, place: str = "results") -> Any:
    """Turn a value into what JSON knows.

    Args:
      value: See `write_results`.
      place: Where it stands, for the message.

    Returns:
      Nested dicts, lists, strings, numbers, booleans and None.

    Raises:
      TypeError: If a value is of a kind that has no place in JSON.

    >>> to_plain({"loss": np.float32(0.5), "best": np.array([1, 2]), "nan": math.nan})
    {'loss': 0.5, 'best': [1, 2], 'nan': None}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        value = {field.name: getattr(value, field.name) for field in fields}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    return _nested_to_plain(value, place)


def _nested_to_plain(value: Any, place: str) -> Any:
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "__array__"):
        return to_plain(np.asarray(value).tolist(), place)
    raise TypeError(f"{place} is a {type(value).__name__}, which JSON cannot hold")
