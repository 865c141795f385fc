"""The matrix products of a program: their operations, and the bytes that they read and write."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from lora_jax.analysis.hlo import Executed, Program

_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_OPCODES = ("dot", "ragged-dot", "convolution")


class Products(NamedTuple):
    """What the matrix products of a step take on one device.

    Attributes:
      flops: operations, a multiplication and an addition each counting one.
      nbytes: what goes through memory if each product reads its operands and writes its result
        once, and all else is fused into them.
    """

    flops: int
    nbytes: int


def products(program: Program) -> Products:
    """Adds up the matrix products and convolutions of a program, each as often as it runs.

    Args:
      program: of one device, after partitioning and before anything is fused.

    Returns:
      Their operations and bytes on one device.
    """
    found = list(program.executed(*_OPCODES))
    return Products(
        sum(one.times * _flops(one) for one in found),
        sum(one.times * _nbytes(one) for one in found),
    )


def _flops(executed: Executed) -> int:
    instruction, computation, _ = executed
    left, right = (computation[name].arrays[0] for name in instruction.operands[:2])
    result = instruction.arrays[0]
    if instruction.opcode == "convolution":
        # Each entry of the result is a sum over the kernel but for its axis of outputs.
        labels = re.search(r"dim_labels=\w+_(\w+)->", instruction.attributes)
        assert labels is not None, instruction
        return 2 * result.size * right.size // right.shape[labels[1].index("o")]
    contracted = _CONTRACTED.search(instruction.attributes)
    axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
    return 2 * result.size * math.prod(left.shape[axis] for axis in axes)


def _nbytes(executed: Executed) -> int:
    instruction, computation, _ = executed
    taken = [computation[name].arrays[0] for name in instruction.operands[:2]]
    return sum(array.nbytes for array in (*taken, *instruction.arrays))
