"""The text of a compiled program (HLO): its instructions, and how often each of them runs.

XLA's own counts take the body of a loop once. Here a loop counts as often as it runs, so that a
model whose layers are scanned is no cheaper than one whose layers are unrolled.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

# Bits of an entry of each type; those not listed hold no data.
_BITS = {
    "pred": 8,
    **dict.fromkeys(("s4", "u4", "f4e2m1fn"), 4),
    **dict.fromkeys(("s8", "u8", "f8e4m3fn", "f8e5m2"), 8),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 16),
    **dict.fromkeys(("s32", "u32", "f32"), 32),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 64),
    "c128": 128,
}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+)(?: \(.*)? \{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:to_apply|calls|body)=%?([\w.\-]+)")
_BRANCHES = re.compile(
    r"(?:branch_computations=\{([^}]*)\}|true_computation=%?([\w.\-]+)"
    r"|false_computation=%?([\w.\-]+))"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_INDEX = re.compile(r"index=(\d+)")

# What runs the computation that it names. Others name one for each entry, such as a sum.
_CALLERS = ("while", "call", "fusion", "conditional", "async-start")


class Array(NamedTuple):
    """The type and shape of an array, on one device."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return -(-self.size * _BITS.get(self.dtype, 0) // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
      name: its name.
      opcode: what it does, such as "dot".
      arrays: what it returns: one array, or those of a tuple.
      operands: the names of what it takes, or what stands in their place, such as a number.
      attributes: the rest of the line, as text.
      is_root: whether it is what its computation returns.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool


class Executed(NamedTuple):
    """An instruction, the computation that it is in, and how often a device runs it."""

    instruction: Instruction
    computation: Mapping[str, Instruction]
    times: int


# What an instruction of a computation calls, and how often.
Calls = Callable[[Instruction, Mapping[str, Instruction]], Iterator[tuple[str, int]]]


@dataclasses.dataclass(frozen=True)
class Program:
    """The program that each device runs, of arrays as they are on one device.

    Attributes:
      computations: the instructions of each computation, by their names.
      entry: the name of the computation that is run.
    """

    computations: Mapping[str, Mapping[str, Instruction]]
    entry: str

    @functools.cached_property
    def runs(self) -> Mapping[str, int]:
        """How often each computation runs; of a conditional every branch is taken to."""
        return self._runs_from(self.entry, self._calls)

    @property
    def unknown_loops(self) -> list[str]:
        """Loops that end when their data say so: their bodies are counted once."""
        return [
            found.instruction.name
            for found in self.executed("while")
            if self._trips(found.instruction, found.computation) is None
        ]

    def executed(self, *opcodes: str) -> Iterator[Executed]:
        """The instructions that run and have one of these opcodes."""
        for name, times in self.runs.items():
            for instruction in self.computations[name].values():
                if instruction.opcode in opcodes:
                    yield Executed(instruction, self.computations[name], times)

    def in_loop(self, loop: Executed, *opcodes: str) -> Iterator[Executed]:
        """The instructions that a loop runs, but for those of loops within it."""
        body = _CALLED.search(loop.instruction.attributes)
        assert body is not None, loop.instruction
        trips = self._trips(loop.instruction, loop.computation) or 1

        def calls(
            instruction: Instruction, computation: Mapping[str, Instruction]
        ) -> Iterator[tuple[str, int]]:
            if instruction.opcode != "while":
                yield from self._calls(instruction, computation)

        for name, times in self._runs_from(body[1], calls).items():
            for instruction in self.computations[name].values():
                if instruction.opcode in opcodes:
                    yield Executed(instruction, self.computations[name], loop.times * trips * times)

    def _runs_from(self, start: str, calls: Calls) -> Mapping[str, int]:
        runs: Counter[str] = Counter()

        def visit(name: str, times: int) -> None:
            runs[name] += times
            for instruction in self.computations[name].values():
                for called, trips in calls(instruction, self.computations[name]):
                    visit(called, times * trips)

        visit(start, 1)
        return runs

    def _calls(
        self, instruction: Instruction, computation: Mapping[str, Instruction]
    ) -> Iterator[tuple[str, int]]:
        if instruction.opcode not in _CALLERS:
            return
        trips = 1
        if instruction.opcode == "while":
            trips = self._trips(instruction, computation) or 1
        for name in _CALLED.findall(instruction.attributes):
            yield name, trips
        for branches, *single in _BRANCHES.findall(instruction.attributes):
            for name in (*branches.split(", "), *single):
                if name:
                    yield name.removeprefix("%"), 1

    def _trips(self, loop: Instruction, around: Mapping[str, Instruction]) -> int | None:
        """How often a loop runs: as the compiler notes it, or as a counter says."""
        if noted := _TRIPS.search(loop.attributes):
            return int(noted[1])
        condition, body = _CONDITION.search(loop.attributes), _CALLED.search(loop.attributes)
        assert condition is not None, loop
        assert body is not None, loop
        tested, run = self.computations[condition[1]], self.computations[body[1]]
        root = _root(tested)
        if root.opcode != "compare" or "direction=LT" not in root.attributes:
            return None
        # The counter is the same entry of the tuple that is tested, that grows, and that starts.
        counter, limit = (tested.get(name) for name in root.operands)
        index = counter and _INDEX.search(counter.attributes)
        if not index:
            return None
        starts = _entry(around, around.get(loop.operands[0]), int(index[1]))
        grows = _entry(run, _root(run), int(index[1]))
        if grows is None or grows.opcode != "add":
            return None
        steps = [_integer(run.get(name)) for name in grows.operands]
        first, last = _integer(starts), _integer(limit)
        if 1 not in steps or first is None or last is None:
            return None
        return max(0, last - first)


def parse(text: str) -> Program:
    """Reads the text of a program.

    Args:
      text: HLO, as `compiled.as_text()` or `lowered.as_text(dialect="hlo")` gives it.

    Returns:
      The program.

    Raises:
      ValueError: it has no entry computation.

    >>> program = parse('''
    ... ENTRY main {
    ...   x = f32[2,3]{1,0} parameter(0)
    ...   ROOT y = f32[2,3]{1,0} tanh(x)
    ... }
    ... ''')
    >>> [found.instruction.arrays[0].nbytes for found in program.executed("tanh")]
    [24]
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry = None
    current: dict[str, Instruction] = {}
    for line in text.splitlines():
        if opening := _COMPUTATION.match(line):
            current = computations.setdefault(opening[2], {})
            entry = opening[2] if opening[1] else entry
        elif found := _INSTRUCTION.match(line):
            current[found[2]] = _instruction(found[2], found[3], is_root=bool(found[1]))
    if entry is None:
        raise ValueError(f"no HLO with an entry computation: {text[:80]!r}")
    return Program(computations, entry)


def _instruction(name: str, text: str, *, is_root: bool) -> Instruction:
    """Takes `type opcode(operands), attributes` apart; a type may be a tuple of types."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    kind, rest = text[:end], text[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    operands = [part.strip() for part in rest[opening + 1 : closing].split(",")]
    return Instruction(
        name=name,
        opcode=rest[:opening],
        arrays=tuple(
            Array(dtype, tuple(int(size) for size in sizes.split(",") if size))
            for dtype, sizes in _ARRAY.findall(kind)
        ),
        # An operand may stand behind its type or a comment: `f32[2] %x`, `/*index=5*/%x`.
        operands=tuple(re.split(r"[ /]", part)[-1].removeprefix("%") for part in operands),
        attributes=rest[closing + 1 :],
        is_root=is_root,
    )


def _root(computation: Mapping[str, Instruction]) -> Instruction:
    return next(instruction for instruction in computation.values() if instruction.is_root)


def _entry(
    computation: Mapping[str, Instruction], made: Instruction | None, index: int
) -> Instruction | None:
    """What stands in one place of a tuple."""
    if made is None or made.opcode != "tuple":
        return None
    return computation.get(made.operands[index])


def _integer(constant: Instruction | None) -> int | None:
    if constant is None or constant.opcode != "constant" or constant.arrays[0].dtype[0] not in "su":
        return None
    return int(constant.operands[0])


def _closing(text: str, opening: int) -> int:
    """The place of the bracket that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"an instruction has no end: {text[:80]!r}")
