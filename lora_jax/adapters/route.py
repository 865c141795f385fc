"""Rows of a batch, each with an adapter of its own, in one pass over the base."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from lora_jax.lifting import Lifted
from lora_jax.models import Cache, RowCaches, Seq2SeqCache, restack

Factors = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, so that jit can cache it
class Routed:
    """``g(params, factors, *args)``, where row i of the batch is adapted by row i of the factors.

    The lifted function is mapped over rows (`jax.vmap`). A product with a frozen weight stays one
    product of the whole batch; only the thin products with the factors are batched by row, and
    nothing of a weight's shape is made for a row.

    Attributes:
      lifted: the function and the sites that the rows' adapters may change.

    >>> import jax.numpy as jnp
    >>> import lora_jax as lora
    >>> params, x = {"w": jnp.ones((4, 3))}, jnp.ones((2, 4))
    >>> lifted = lora.lift(lambda p, x: x @ p["w"], params, x, method=lora.LoRA(1), targets="w")
    >>> stacked = lora.stack([lifted.init(jax.random.key(i), params) for i in range(5)])
    >>> rows = gather(stacked, jnp.array([4, 0]))
    >>> Routed(lifted)(params, rows, x).shape
    (2, 3)
    """

    lifted: Lifted

    def __call__(self, params: Any, factors: Factors, *args: Any, **kwargs: Any) -> Any:
        """What the function returns for each row with its own factors.

        Args:
          params: as the function takes them, or their layers apart (`models.unstack`); shared by
            all rows.
          factors: as the lift's, each array with the rows on a first axis (`gather`), or their
            layers apart (`models.unstack(factors, axis=1)`). Where the batch has several times as
            many rows, as with several texts of each prompt, each row of the factors is for that
            many rows side by side.
          *args: the other arguments of the function. Arrays have the rows on their first axis;
            caches of `models.new_cache` are taken apart by row.
          **kwargs: its other keyword arguments, as `args`.

        Returns:
          Arrays with the rows on their first axis; a cache comes back as `models.RowCaches`, which
          the next call takes.

        Raises:
          ValueError: arguments without rows, or rows that those of the factors do not divide.
        """
        leaves, tree = jax.tree.flatten((args, kwargs), is_leaf=_is_cache)
        mapped = {i: _by_row(leaf) for i, leaf in enumerate(leaves) if _has_rows(leaf)}
        params, factors = restack(params), restack(factors)

        def one_row(factors: Factors, own: Mapping[int, Any]) -> Any:
            given = [_batch_of_one(own[i]) if i in own else leaf for i, leaf in enumerate(leaves)]
            args, kwargs = jax.tree.unflatten(tree, given)
            result = self.lifted(params, factors, *args, **kwargs)
            return jax.tree.map(_only_row, result, is_leaf=_is_cache)

        return jax.vmap(one_row)(_repeat(factors, _count(mapped)), mapped)

    def apply(self, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As a call with ``variables = {"params": …, "factors": …}``, for `generate`."""
        return self(variables["params"], variables["factors"], *args, **kwargs)


def gather(stacked: Any, rows: Any) -> Any:
    """The factors of each row: ``rows (batch,)`` are indices into the first axis of `stacked`."""
    return jax.tree.map(lambda leaf: leaf[rows], stacked)


def _count(mapped: Mapping[int, Any]) -> int:
    """The number of rows of the arguments."""
    counts = {leaf.shape[0] for leaf in jax.tree.leaves(mapped)}
    if len(counts) != 1:
        raise ValueError(f"every array needs the rows on its first axis, but they have {counts}")
    return counts.pop()


def _repeat(factors: Factors, rows: int) -> Factors:
    held = len(jax.tree.leaves(factors)[0])
    if rows % held:
        raise ValueError(f"the batch has {rows} rows, and there are factors for {held}")
    return (
        jax.tree.map(lambda x: x.repeat(rows // held, axis=0), factors) if rows > held else factors
    )


def _is_cache(value: Any) -> bool:
    return isinstance(value, Cache | Seq2SeqCache | RowCaches)


def _has_rows(leaf: Any) -> bool:
    return _is_cache(leaf) or getattr(leaf, "ndim", 0) > 0


def _by_row(leaf: Any) -> Any:
    return RowCaches(leaf.by_row()) if isinstance(leaf, Cache | Seq2SeqCache) else leaf


def _batch_of_one(leaf: Any) -> Any:
    return leaf.caches if isinstance(leaf, RowCaches) else leaf[None]


def _only_row(leaf: Any) -> Any:
    return RowCaches(leaf) if _is_cache(leaf) else leaf[0]
