"""Many adapters over one base: trees of factors on a leading axis, for `jax.vmap` and routing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def stack(trees: Sequence[Any]) -> Any:
    """One tree whose leaves hold those of `trees` on a new leading axis.

    Args:
      trees: at least one; all of the same structure, shapes and dtypes.

    Returns:
      A tree of arrays of shape ``(len(trees), …)``: ``jax.vmap(lifted, in_axes=(None, 0, None))``
      runs them all over one base, and ``jax.tree.map(lambda x: x[index], stacked)`` picks some.

    Raises:
      ValueError: no trees, or one that differs from the first.

    >>> import numpy as np
    >>> stack([{"a": np.zeros(3)}, {"a": np.ones(3)}])["a"].shape
    (2, 3)
    """
    if not trees:
        raise ValueError("nothing to stack: give at least one tree")
    for i, tree in enumerate(trees[1:], start=1):
        if difference := _difference(trees[0], tree):
            raise ValueError(f"tree {i} cannot be stacked with tree 0: {difference}")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Any) -> list[Any]:
    """The inverse of `stack`.

    Raises:
      ValueError: the leaves have no common leading axis.
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(f"leaves have no common leading axis: {sorted(sizes)}")
    ((size,),) = sizes
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(size)]


def _difference(first: Any, other: Any) -> str | None:
    """What sets two trees apart, in words."""
    flat, _ = jax.tree_util.tree_flatten_with_path(first)
    other_flat, _ = jax.tree_util.tree_flatten_with_path(other)
    tree, other_tree = jax.tree.structure(first), jax.tree.structure(other)
    if str(tree) != str(other_tree):
        return f"their structures differ: {tree} and {other_tree}"
    for (path, leaf), (_, other_leaf) in zip(flat, other_flat, strict=True):
        here, there = _type(leaf), _type(other_leaf)
        if here != there:
            return f"{jax.tree_util.keystr(path)} is {here} in one and {there} in the other"
    return None


def _type(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
