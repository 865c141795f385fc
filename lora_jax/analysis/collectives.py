"""What a program sends from device to device."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lora_jax.analysis.hlo import Executed, Program

# Bytes that a device sends, for each byte of the whole array, if n devices form a ring: Patarasuk
# and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009. The whole
# array is what an all-gather returns, what a reduce-scatter takes, and else both.
_SENT: Mapping[str, Callable[[int], float]] = {
    "all-gather": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda _: 1.0,
}
KINDS = tuple(_SENT)

_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? "
    r"\{([^}]*)\}"
)
_PAIRS = re.compile(r"source_target_pairs=\{\{(.*?)\}\}")


class Collective(NamedTuple):
    """One collective of a program.

    Attributes:
      kind: one of `KINDS`.
      dtype: of its array, or of the first of several.
      shape: of that array, whole, as it is after gathering or before scattering.
      nbytes: of all arrays that one call handles, whole.
      devices: of the group that the first device is in, by their place in the mesh.
      times: how often a step runs it.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    devices: tuple[int, ...]
    times: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a step, as a ring would."""
        return self.times * self.nbytes * _SENT[self.kind](len(self.devices))


class Traffic(NamedTuple):
    """All collectives of one kind in a step."""

    kind: str
    calls: int
    nbytes: int
    sent: float


def collectives(program: Program) -> list[Collective]:
    """Lists the collectives of a program, those within groups of one device left out.

    Args:
      program: of one device, after partitioning.

    Returns:
      The collectives, in the order of the program; an asynchronous one counts once.
    """
    opcodes = [kind + ending for kind in KINDS for ending in ("", "-start")]
    found = [_collective(executed) for executed in program.executed(*opcodes)]
    return [one for one in found if len(one.devices) > 1]


def traffic(found: Sequence[Collective]) -> list[Traffic]:
    """Adds up collectives by kind, each as often as it runs."""
    return [
        Traffic(
            kind,
            sum(one.times for one in found if one.kind == kind),
            sum(one.times * one.nbytes for one in found if one.kind == kind),
            sum(one.sent for one in found if one.kind == kind),
        )
        for kind in KINDS
        if any(one.kind == kind for one in found)
    ]


def largest(found: Sequence[Collective], kind: str = "all-gather") -> Collective | None:
    """The collective of a kind that handles the most bytes at once; None if there is none."""
    return max((one for one in found if one.kind == kind), key=lambda one: one.nbytes, default=None)


def _collective(executed: Executed) -> Collective:
    instruction, computation, times = executed
    kind = instruction.opcode.removesuffix("-start")
    arrays = instruction.arrays
    if kind == "reduce-scatter" or len(arrays) != len(instruction.operands):
        # A start returns operands too, and counters: what is whole are results, or operands.
        taken = [computation[name].arrays[0] for name in instruction.operands]
        arrays = tuple(taken)
        if kind == "all-gather":
            arrays = instruction.arrays[len(taken) : 2 * len(taken)]
    return Collective(
        kind,
        arrays[0].dtype,
        arrays[0].shape,
        sum(array.nbytes for array in arrays),
        _group(instruction.attributes),
        times,
    )


def _group(attributes: str) -> tuple[int, ...]:
    """The group of the first device; one way to write it is `replica_groups={{0,1},{2,3}}`."""
    if listed := _LISTED.search(attributes):
        return tuple(_numbers(listed[1]))
    if counted := _COUNTED.search(attributes):  # [groups, size]<=[shape]T(axes)
        return tuple(_arranged(counted[3], counted[4]).reshape(int(counted[1]), -1)[0].tolist())
    if mesh := _MESH.search(attributes):  # mesh['x'=2,'y'=4] {'y'}
        return _group_of_mesh(*mesh.groups())
    if pairs := _PAIRS.search(attributes):
        return _longest_hop(pairs[1])
    raise ValueError(f"a collective names no devices: {attributes[:200]!r}")


def _group_of_mesh(
    axes: str, shape: str | None, order: str | None, grouped: str
) -> tuple[int, ...]:
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    ids = np.arange(math.prod(sizes.values())) if shape is None else _arranged(shape, order)
    names = re.findall(r"'([^']+)'", grouped)
    index = tuple(slice(None) if name in names else 0 for name in sizes)
    return tuple(ids.reshape(*sizes.values())[index].ravel().tolist())


def _longest_hop(pairs: str) -> tuple[int, ...]:
    """The two devices of a permutation that are furthest apart, which take the longest."""
    hops = [tuple(_numbers(pair)) for pair in pairs.split("},{")]
    hop = max(hops, key=lambda hop: abs(hop[0] - hop[1]))
    return hop if hop[0] != hop[1] else hop[:1]


def _arranged(shape: str, order: str | None) -> np.ndarray:
    """All devices, in the order of a transposed grid."""
    grid = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return grid.transpose(_numbers(order) if order else None).ravel()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
