"""The fields of a JSON body, each checked as it is taken; what nobody takes is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lora_jax.nearest import nearest
from lora_jax.serving.errors import ApiError

_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


class Fields:
    """A JSON object whose fields are taken one by one.

    Args:
      values: of the object.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._left = dict(values)
        self._known: list[str] = []

    def take(self, name: str, kind: Any = None, default: Any = None) -> Any:
        """The value of a field, or the default where it is absent or null.

        Args:
          name: of the field.
          kind: `str`, `int`, `float` or `bool`, which it must be; None: whatever it is.
          default: its value where it has none.

        Raises:
          ApiError: the value is of another kind.
        """
        self._known.append(name)
        value = self._left.pop(name, None)
        if value is None:
            return default
        if kind is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        if kind is not None and type(value) is not kind:
            raise wrong(name, value, _NAMES[kind])
        return value

    def number(self, name: str, kind: Any, default: Any, low: float, high: float) -> Any:
        """A number of a field, within bounds that are valid themselves.

        Raises:
          ApiError: it is no such number.
        """
        value = self.take(name, kind, default)
        if value is not None and not low <= value <= high:
            raise wrong(name, value, f"{_NAMES[kind]} from {low} to {high}")
        return value

    def need(self, name: str, kind: Any = None) -> Any:
        """The value of a field that must be there.

        Raises:
          ApiError: it is absent, null or of another kind.
        """
        value = self.take(name, kind)
        if value is None:
            raise ApiError(400, f"the request has no {name!r}", param=name)
        return value

    def neutral(self, values: Mapping[str, tuple[Any, ...]]) -> None:
        """Takes fields for which there is one meaning only, with the values that have it.

        Raises:
          ApiError: a field has another value.
        """
        for name, allowed in values.items():
            value = self.take(name)
            if value is not None and (type(value), value) not in [(type(x), x) for x in allowed]:
                only = " or ".join(json.dumps(one) for one in (*allowed, None))
                raise wrong(name, value, f"{only}: nothing else is supported")

    def finish(self) -> None:
        """Ends the reading.

        Raises:
          ApiError: there are fields that nobody took.
        """
        for name in self._left:
            (near,) = nearest(name, self._known)
            raise ApiError(400, f"unknown field {name[:80]!r}; nearest: {near!r}", param=name[:80])


def read_object(body: bytes) -> Fields:
    """Reads a JSON object.

    Raises:
      ApiError: the body is no JSON object, names a field twice, or holds text that is no Unicode.

    >>> read_object(b'{"stream": true}').take("stream", bool)
    True
    """
    try:
        values = json.loads(body, parse_constant=_refuse_constant, object_pairs_hook=_object)
        # A half of a surrogate pair can be written in JSON, and in nothing that is read later.
        json.dumps(values, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ApiError(400, "the body is nested too deeply") from error
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}"[:300]) from error
    if not isinstance(values, dict):
        raise ApiError(400, f"the body is a JSON {type(values).__name__}, not an object")
    return Fields(values)


def wrong(name: str, value: Any, wanted: str) -> ApiError:
    """The error of a field whose value is not as wanted."""
    try:
        shown = json.dumps(value)
    except RecursionError:  # it could be read only just
        shown = "something nested deeply"
    shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
    return ApiError(400, f"{name} = {shown}; it must be {wanted}", param=name)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. One that names a field twice may be read in two ways, so it is not."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ApiError(400, f"the body has the field {name[:80]!r} twice")
        found[name] = value
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
