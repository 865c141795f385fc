"""What a compiled program holds: its instructions by the shape they make, its collectives."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator
from typing import Any

INSTRUCTION = re.compile(r"= (?P<type>[a-z0-9]+\[[\d,]*\])[^ ]* (?P<operation>[a-z][\w\-]*)\(")
COLLECTIVE = re.compile(
    r"= (?P<result>\(?[a-z0-9]+\[.*?) "
    r"(?P<operation>all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
# Not computed: arguments, and other names for them.
NAMES_ONLY = ("parameter", "bitcast", "get-tuple-element")


def instructions(compiled: Any) -> collections.Counter[tuple[str, str]]:
    """How often each operation makes an array of each type; scalars are not counted.

    (Which fusion is handed a constant such as the scale, and which holds it, is XLA's choice.)
    """
    matches = INSTRUCTION.finditer(compiled.as_text())
    return collections.Counter(
        (match["operation"], match["type"]) for match in matches if "[]" not in match["type"]
    )


def made_with_shapes(compiled: Any, shapes: set[tuple[int, ...]]) -> collections.Counter[str]:
    """How often each operation of a compiled program makes an fp32 array of one of these shapes."""
    wanted = {f"f32[{','.join(map(str, shape))}]" for shape in shapes}
    made: collections.Counter[str] = collections.Counter()
    for (operation, kind), count in instructions(compiled).items():
        if kind in wanted and operation not in NAMES_ONLY:
            made[operation] += count
    return made


def collectives(compiled: Any) -> collections.Counter[str]:
    """How often each collective occurs."""
    return collections.Counter(m["operation"] for m in COLLECTIVE.finditer(compiled.as_text()))


def communicated(compiled: Any) -> collections.Counter[tuple[str, str]]:
    """How often each collective makes an array of each type: ("all-gather", "f32[8,16]").

    XLA combines several arrays into one collective; they are counted one by one.
    """
    return collections.Counter(
        (match["operation"], array)
        for match in COLLECTIVE.finditer(compiled.as_text())
        for array in re.findall(r"[a-z0-9]+\[[\d,]*\]", match["result"])
    )


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a jaxpr and of those inside it."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from equations(inner)
