"""What a training step takes of each device's memory, and for what."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lora_jax.analysis.ahead import Compiled
from lora_jax.analysis.hlo import Executed, Program
from lora_jax.training.sharding import Shardings
from lora_jax.training.state import TrainState


class Memory(NamedTuple):
    """Bytes on one device.

    Attributes:
      frozen: weights that do not train, quantised or not.
      trained: factors, a head, or all weights.
      optimizer: what the optimiser keeps.
      batch: the batch.
      temporaries: the most that is held at once between the arguments and the results, as the
        compiler for CPU lays it out: gradients, activations, gathered weights.
      gradients: of what trains; part of the temporaries.
      kept: what scanned layers keep for the backward pass, part of the temporaries; 0 where layers
        are unrolled.
      peak: arguments, results that do not take an argument's place, and temporaries.
    """

    frozen: int
    trained: int
    optimizer: int
    batch: int
    temporaries: int
    gradients: int
    kept: int
    peak: int


def step_memory(
    state: TrainState, frozen: PyTree, batch: PyTree, shardings: Shardings, compiled: Compiled
) -> Memory:
    """Says what a training step takes on one device.

    Args:
      state: the state, arrays or shapes.
      frozen: the frozen tree.
      batch: a batch.
      shardings: where these three live.
      compiled: the compiled step.

    Returns:
      The bytes.
    """
    trained = local_bytes(state.trainable, shardings.state.trainable)
    everywhere = jax.tree.map(lambda _: shardings.batch, batch)
    return Memory(
        frozen=local_bytes(frozen, shardings.frozen),
        trained=trained,
        optimizer=local_bytes(state.opt_state, shardings.state.opt_state),
        batch=local_bytes(batch, everywhere),
        temporaries=compiled.temporaries,
        gradients=trained,
        kept=kept_bytes(compiled.program),
        peak=compiled.peak,
    )


def local_bytes(tree: PyTree, shardings: PyTree) -> int:
    """Bytes that arrays take on one device.

    Args:
      tree: arrays or shapes; random keys are not counted.
      shardings: where each lives.
    """
    leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    return sum(
        math.prod(where.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize
        for x, where in leaves
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    )


def total_bytes(tree: PyTree) -> int:
    """Bytes of arrays or shapes, wherever they live; random keys are not counted."""
    return sum(
        math.prod(x.shape) * np.dtype(x.dtype).itemsize
        for x in jax.tree.leaves(tree)
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    )


def kept_bytes(program: Program) -> int:
    """Bytes that loops of the forward pass fill piece by piece, for the backward pass to read."""
    return sum(
        found.instruction.arrays[0].nbytes
        for loop in program.executed("while")
        if "transpose(" not in loop.instruction.attributes
        for found in program.in_loop(loop, "dynamic-update-slice")
        if _is_filled(found)
    )


def _is_filled(found: Executed) -> bool:
    """Whether the pieces that a loop writes make up the array."""
    piece = found.computation[found.instruction.operands[1]].arrays[0]
    whole = found.instruction.arrays[0]
    return piece.size < whole.size and (found.times * piece.size) % whole.size == 0
