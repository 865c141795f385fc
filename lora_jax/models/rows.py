"""Where the rows of a batch are on a mesh: split, all the way through a model."""

import math
from typing import Any, TypeVar

import jax
from jax import lax
from jax.sharding import PartitionSpec

_CarryT = TypeVar("_CarryT")

# The axes of a mesh that split a batch.
BATCH_AXES = ("data", "fsdp")


def keep_rows_split(carry: _CarryT) -> _CarryT:
    """Keeps hidden states split by rows between layers.

    Weights are split over `fsdp`, too. Left to itself, the compiler may then split hidden states by
    their width, compute all rows on every device and add up each product over the devices, which
    sends many times the bytes of gathering a layer's weights.

    Args:
        carry: hidden states `[batch, length, dim]`, or a tuple whose first part they are.

    Returns:
        The same. It is left alone where no mesh is in use (`jax.sharding.use_abstract_mesh`), or
        its axes do not divide the rows.
    """
    parts: tuple[Any, ...] = carry if isinstance(carry, tuple) else (carry,)
    hidden, *rest = parts
    if hidden.ndim != 3 or shares(hidden.shape[0]) == 1:
        return carry
    hidden = lax.with_sharding_constraint(hidden, PartitionSpec(_axes()))
    split: Any = (hidden, *rest) if isinstance(carry, tuple) else hidden
    return split


def shares(rows: int) -> int:
    """How many parts the rows of a batch are split into by the mesh in use; 1 if they are not."""
    mesh = jax.sharding.get_abstract_mesh()
    count = math.prod(mesh.shape[name] for name in _axes())
    return count if rows % count == 0 else 1


def _axes() -> tuple[str, ...]:
    mesh = jax.sharding.get_abstract_mesh()
    names = set(mesh.axis_names) - set(mesh.manual_axes)  # of those a program has one part
    return tuple(name for name in BATCH_AXES if name in names)
