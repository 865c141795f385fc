"""Explicit-sharding mode: where an intermediate of ours lives.

With ``AxisType.Explicit`` meshes JAX carries shardings in types and asks for them where they are
ambiguous. Elsewhere these functions do nothing and the compiler decides.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec


def _spec(array: Any) -> tuple | None:
    spec = getattr(getattr(jax.typeof(array), "sharding", None), "spec", None)
    return tuple(spec) if spec is not None and any(spec) else None


def out_sharding(
    x: Any, x_axes: Sequence[Hashable], y: Any, y_axes: Sequence[Hashable], out: Sequence[Hashable]
) -> dict[str, PartitionSpec]:
    """The `out_sharding` argument of a product: kept axes keep their spec, sums are reduced."""
    x_spec, y_spec = _spec(x), _spec(y)
    if x_spec is None and y_spec is None:
        return {}
    spec: dict[Hashable, Any] = {}
    used: set[str] = set()
    pairs = [*zip(x_axes, x_spec or (), strict=False), *zip(y_axes, y_spec or (), strict=False)]
    for label, entry in pairs:
        names = {entry} if isinstance(entry, str) else set(entry or ())
        if label in out and names and label not in spec and not used & names:
            spec[label] = entry
            used |= names
    return {"out_sharding": PartitionSpec(*(spec.get(label) for label in out))}


def gather_axes(array: Any, axes: Sequence[int]) -> Any:
    """Brings some axes of `array` to every device whole, so that a reshape may split them."""
    spec = _spec(array)
    if spec is None or not any(spec[axis] for axis in axes):
        return array
    kept = PartitionSpec(*(None if i in axes else entry for i, entry in enumerate(spec)))
    return jax.sharding.reshard(array, NamedSharding(jax.typeof(array).sharding.mesh, kept))


def place_like(array: jax.Array, other: jax.Array) -> jax.Array:
    """Brings `array` to the sharding in `other`'s type, where types carry one."""
    if _spec(other) is None:
        return array
    return jax.sharding.reshard(array, jax.typeof(other).sharding)
