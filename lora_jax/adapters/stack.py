"""Many adapters over one base: trees of factors on a leading axis, for `jax.vmap` and routing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


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


def common_shapes(trees: Sequence[Any]) -> Any:
    """The smallest shapes that every tree can be padded to.

    Args:
      trees: nested mappings of arrays or shapes. An entry may be absent from some of them.

    Returns:
      Nested dicts of `jax.ShapeDtypeStruct`s, with the entries of all trees.

    Raises:
      ValueError: an entry has other dtypes or numbers of axes in two trees.

    >>> common_shapes([{"a": np.ones((4, 2))}, {"a": np.ones((4, 8)), "b": np.ones(3)}])["a"].shape
    (4, 8)
    """
    if isinstance(trees[0], Mapping):
        names = dict.fromkeys(name for tree in trees for name in tree)
        found = {name: [tree[name] for tree in trees if name in tree] for name in names}
        return {name: common_shapes(entries) for name, entries in found.items()}
    kinds = sorted({f"{x.dtype} of {len(x.shape)} axes" for x in trees})
    if len(kinds) > 1:
        raise ValueError(f"arrays cannot be padded to one shape: {' and '.join(kinds)}")
    shape = tuple(map(max, zip(*(x.shape for x in trees), strict=True)))
    return jax.ShapeDtypeStruct(shape, trees[0].dtype)


def pad(tree: Any, like: Any) -> Any:
    """Fills a tree up with zeros, at the end of each axis, on the host.

    So an adapter of a smaller rank, or of fewer weights, can be stacked with others: it does the
    same, where its scale is kept (`method.scale`, which depends on its own rank).

    Args:
      tree: nested mappings of arrays; None for nothing but zeros.
      like: nested mappings with at least its entries; their arrays or shapes are at least as large.

    Returns:
      Nested dicts of NumPy arrays of the shapes of `like`.

    Raises:
      ValueError: the tree has an entry that `like` lacks, or a larger array.

    >>> pad({"a": np.ones((1, 2))}, {"a": np.zeros((1, 3)), "b": np.zeros(2)})
    {'a': array([[1., 1., 0.]]), 'b': array([0., 0.])}
    """
    if isinstance(like, Mapping):
        tree = {} if tree is None else tree
        if unknown := [name for name in tree if name not in like]:
            raise ValueError(f"{unknown[0]!r} is not among {list(like)}")
        return {name: pad(tree.get(name), entry) for name, entry in like.items()}
    if tree is None:
        return np.zeros(like.shape, like.dtype)
    array = np.asarray(tree)
    missing = [there - here for here, there in zip(array.shape, like.shape, strict=True)]
    if min(missing, default=0) < 0:
        raise ValueError(f"an array {array.shape} is larger than {tuple(like.shape)}")
    return np.pad(array, [(0, count) for count in missing])


def crop(tree: Any, like: Any) -> Any:
    """The inverse of `pad`: the entries of `like`, in their shapes.

    >>> crop({"a": np.ones((1, 3)), "b": np.ones(2)}, {"a": np.zeros((1, 2))})
    {'a': array([[1., 1.]])}
    """
    if isinstance(like, Mapping):
        return {name: crop(tree[name], entry) for name, entry in like.items()}
    return tree[tuple(slice(size) for size in like.shape)]


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
