"""Frozen weights with one array a layer, for a step whose layers are unrolled.

An unrolled model slices the weights of each layer out of their stack. XLA copies every slice in
every step, and holds the copies from the forward to the backward pass: as many bytes as all layers
have. Where each layer is an array of its own and stacked in the program alone, XLA sees that the
slices are those arrays, and copies nothing.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from lora_jax.lifting import path_name

LAYERS = r"(.*/)?layers/.*"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unstacked:
    """The parts of an array along its first axis."""

    parts: tuple[Any, ...]  # arrays, or what stands for them


def unstack(frozen: PyTree, stacks: str = LAYERS) -> PyTree:
    """Gives each layer arrays of its own, for a model with `scan=False` on one device.

    Each array is copied: let go of the stacks (`del base`, `del variables`), or their memory is
    spent twice. `labels.join`, and so a step, takes the result in place of the stacks; outside of
    `jax.jit` it copies them together again.

    Args:
      frozen: the second result of `init_state`.
      stacks: a regular expression of the whole paths of arrays whose first axis is the layer.

    Returns:
      The tree, with an `Unstacked` in place of each such array.

    Raises:
      ValueError: no array has such a path.

    Example:
      >>> unstack({"layers": {"w": jnp.ones((2, 3))}, "norm": None})["layers"]["w"].parts[1].shape
      (3,)
    """
    found = [path_name(path) for path, _ in jax.tree.leaves_with_path(frozen)]
    if not any(re.fullmatch(stacks, path) for path in found):
        raise ValueError(f"no frozen array has a path like {stacks!r}; there are {found[:3]}, …")

    def of(path: Any, x: Array) -> Array | Unstacked:
        return Unstacked(tuple(x)) if re.fullmatch(stacks, path_name(path)) else x

    return jax.tree.map_with_path(of, frozen)


def stacked(x: Any) -> Any:
    """An array whose parts may lie apart, as one."""
    return jnp.stack(x.parts) if isinstance(x, Unstacked) else x
