"""Weights with one array a layer, for programs whose layers are unrolled.

An unrolled model slices the weights of each layer out of their stack. XLA copies every slice each
time the program runs, and holds the copies of a training step from the forward to the backward
pass: as many bytes as all layers have. Where each layer is an array of its own and stacked in the
program alone, XLA sees that the slices are those arrays, and copies nothing.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

LAYERS = r"(.*/)?layers/.*"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unstacked:
    """The parts of an array along one of its axes."""

    parts: tuple[Any, ...]  # arrays, or what stands for them
    axis: int = dataclasses.field(default=0, metadata={"static": True})


def unstack(params: PyTree, stacks: str = LAYERS, *, axis: int = 0) -> PyTree:
    """Gives each layer arrays of its own, for a model with `scan=False` on one device.

    Each array is copied: let go of the stacks (`del base`, `del variables`), or their memory is
    spent twice. `training.join`, and so a step, takes the result in place of the stacks, and so
    does `lora.AdapterPool`; for a program of your own `restack` makes the stacks again.

    Args:
      params: of a model; or what `training.init_state` freezes.
      stacks: a regular expression of the whole paths of arrays that have an axis of layers.
      axis: which one that is.

    Returns:
      The tree, with an `Unstacked` in place of each such array.

    Raises:
      ValueError: no array has such a path.

    Example:
      >>> unstack({"layers": {"w": jnp.ones((2, 3))}, "norm": None})["layers"]["w"].parts[1].shape
      (3,)
    """
    found = [_name(path) for path, _ in jax.tree.leaves_with_path(params)]
    if not any(re.fullmatch(stacks, path) for path in found):
        raise ValueError(f"no array has a path like {stacks!r}; there are {found[:3]}, …")

    def of(path: Any, x: Array) -> Array | Unstacked:
        if not re.fullmatch(stacks, _name(path)):
            return x
        return Unstacked(tuple(jnp.moveaxis(x, axis, 0)), axis)

    return jax.tree.map_with_path(of, params)


def restack(params: PyTree) -> PyTree:
    """Makes the stacks again: inside `jax.jit` for the program alone, elsewhere as copies.

    Example:
      >>> apart = unstack({"layers": {"w": jnp.ones((2, 3))}})
      >>> jax.jit(lambda params: restack(params)["layers"]["w"][1].sum())(apart)
      Array(3., dtype=float32)
    """
    return jax.tree.map(stacked, params, is_leaf=lambda x: isinstance(x, Unstacked))


def stacked(x: Any) -> Any:
    """An array whose parts may lie apart, as one."""
    return jnp.stack(x.parts, x.axis) if isinstance(x, Unstacked) else x


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
