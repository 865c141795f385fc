"""Calls of tools that a model writes: the same functions with the same arguments, or not."""

import ast
import collections
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def tool_calls(prediction: str, references: Sequence[str]) -> float:
    """Whether a text makes exactly the calls of a reference: strict success, as for ToolACE.

    Calls are written as ToolACE has them, `[Weather API(city="Rome", days=3), …]`, or as a JSON
    list of objects with "name" and "arguments". Every function, every argument and every value
    must agree; the order of calls and of arguments is free. Values are compared as JSON, so 3 is
    3.0 but neither "3" nor true. Where a reference is prose, a prediction without calls is right.

    Args:
      prediction: The generated text.
      references: One or more texts that are right.

    Returns:
      1 or 0.

    Source: Liu et al. 2024, "ToolACE: winning the points of LLM function calling"; the matching of
    parallel calls is that of the Berkeley function-calling leaderboard.

    >>> tool_calls('[News(n=3, topic="jax")]', ['[News(topic="jax", n=3.0)]'])
    1.0
    """
    found = _calls(prediction)
    return float(any(found == _calls(text) for text in references))


def _calls(text: str) -> collections.Counter[str]:
    """The calls, each as JSON with sorted names; none where the text is not a list of calls."""
    try:
        calls = list(_json_calls(text) or _written_calls(text))
        return collections.Counter(
            json.dumps([name, _plain(arguments)], sort_keys=True) for name, arguments in calls
        )
    except (ValueError, SyntaxError, TypeError, RecursionError):
        return collections.Counter()


def _json_calls(text: str) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        calls = json.loads(text)
    except ValueError:
        return []
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) and {"name", "arguments"} <= call.keys() for call in calls):
        raise ValueError("JSON, but not of calls")
    return [(call["name"], call["arguments"]) for call in calls]


def _written_calls(text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        raise ValueError("not a list of calls")
    for call in _split(text[1:-1]):
        name, opened, arguments = call.partition("(")
        if not (name.strip() and opened and arguments.endswith(")")):
            raise ValueError(f"not a call: {call}")
        pairs = [argument.partition("=") for argument in _split(arguments[:-1])]
        values = {key.strip(): _value(value.strip()) for key, _, value in pairs}
        if len(values) < len(pairs):
            raise ValueError(f"an argument is given twice: {call}")
        yield name.strip(), values


def _split(text: str) -> list[str]:
    """Cuts a text at the commas outside quotes and brackets."""
    parts, start, depth, quote, escaped = [], 0, 0, "", False
    for place, letter in enumerate(text):
        if escaped:
            escaped = False
        elif quote:
            escaped = letter == "\\"
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def _value(text: str) -> Any:
    """A literal of JSON or of Python."""
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(text)


def _plain(value: Any) -> Any:
    """The value with every whole float as an integer."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
