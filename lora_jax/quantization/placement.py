"""Where the arrays of a quantised weight live: along the weight's axes."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec


def packed_shardings(weight: Any, sharding: NamedSharding) -> Any:
    """The sharding of each array of a packed weight, from that of the dense weight.

    Codes and scales have the weight's axes, if fewer entries along the inputs; they are split as it
    is wherever the mesh divides what they hold. Scales of scales are small: only their leading axes
    are split.

    Args:
      weight: an `Nf4` or `Int8`, of arrays or shapes.
      sharding: of the dense weight.

    Returns:
      The same structure with a `NamedSharding` for each array, for `jax.device_put`.
    """
    entries = (*sharding.spec, *(None,) * (weight.ndim - len(sharding.spec)))

    def place(array: Any) -> NamedSharding:
        axes = entries if len(array.shape) == weight.ndim else entries[: weight.leading]
        fits = [
            entry if size % _parts(sharding, entry) == 0 else None
            for entry, size in zip(axes, array.shape, strict=False)
        ]
        return NamedSharding(sharding.mesh, PartitionSpec(*fits))

    return jax.tree.map(place, weight)


def _parts(sharding: NamedSharding, entry: Any) -> int:
    names = () if entry is None else (entry,) if isinstance(entry, str) else entry
    return math.prod(sharding.mesh.shape[name] for name in names)
