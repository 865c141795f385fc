"""The keys and values that a decoder has computed, kept while it generates."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lora_jax.models.segments import place_in_segments, up_to_here


class Cache(NamedTuple):
    """Keys and values of all layers, in slots that are filled one after another.

    All rows of a batch fill the same slots, padding included; `order` tells the real tokens apart.

    Attributes:
        k: keys `[layers, batch, kv_heads, slots, head_dim]`.
        v: values, of the same shape.
        order: `[batch, slots]`: the place of each slot's token in its text, counted from 0; -1 for
            padding and for empty slots.
        used: number of slots in use, a scalar.
    """

    k: Float[Array, "layers batch kv_heads slots head_dim"]
    v: Float[Array, "layers batch kv_heads slots head_dim"]
    order: Int[Array, "batch slots"]
    used: Int[Array, ""]

    @property
    def lengths(self) -> Int[Array, " batch"]:
        """The number of real tokens of each row."""
        return self.order.max(axis=1) + 1

    def select(self, rows: Int[Array, " new_batch"]) -> "Cache":
        """The cache with these rows of the batch, as beam search and repetition need it."""
        return Cache(
            jnp.take(self.k, rows, axis=1),
            jnp.take(self.v, rows, axis=1),
            jnp.take(self.order, rows, axis=0),
            self.used,
        )

    def by_row(self) -> "Cache":
        """The cache of each row as a batch of one: every leaf has the rows on a new first axis."""
        rows = self.order.shape[0]
        return Cache(
            jnp.moveaxis(self.k, 1, 0)[:, :, None],
            jnp.moveaxis(self.v, 1, 0)[:, :, None],
            self.order[:, None],
            jnp.broadcast_to(self.used, rows),
        )


class RowCaches(NamedTuple):
    """The caches of single rows side by side, for a model that is mapped over them (`jax.vmap`).

    Each row fills slots of its own, so rows may have read texts of any length.

    Attributes:
        caches: a `Cache`, or one of an encoder-decoder, of a batch of one, every leaf with the
            rows on a first axis.
    """

    caches: Any

    @property
    def order(self) -> Int[Array, "batch slots"]:
        """The place of each slot's token in its text; -1 for padding and for empty slots."""
        return self.caches.order[:, 0]

    @property
    def used(self) -> Int[Array, ""]:
        """Number of slots in use in the fullest row."""
        return self.caches.used.max()

    def select(self, rows: Int[Array, " new_batch"]) -> "RowCaches":
        """The caches of these rows, as beam search and repetition need them."""
        return RowCaches(jax.tree.map(lambda x: jnp.take(x, rows, axis=0), self.caches))


def empty_cache(
    layers: int, batch: int, slots: int, kv_heads: int, head_dim: int, dtype: str
) -> Cache:
    """Makes a cache in which no slot is used."""
    zeros = jnp.zeros((layers, batch, kv_heads, slots, head_dim), dtype)
    return Cache(zeros, zeros, jnp.full((batch, slots), -1, jnp.int32), jnp.int32(0))


def begin(
    cache: Cache | None,
    ids: Int[Array, "batch length"],
    mask: Int[Array, "batch length"] | None,
    segments: Int[Array, "batch length"] | None = None,
) -> tuple[Cache | None, Int[Array, "batch length"], Int[Array, "batch keys"]]:
    """Starts a pass over new tokens.

    Args:
        cache: what came before; None: nothing did, and nothing is kept.
        ids: the new tokens.
        mask: 1 for real tokens, 0 for padding; None: all are real.
        segments: the documents of each row, each with places of its own; None: one.

    Returns:
        The cache with the places of the new tokens in it, those places, and the places of all
        keys that a layer will see.

    Raises:
        ValueError: the cache has fewer slots than there are new tokens, or is given with segments.
    """
    if segments is not None:
        if cache is not None:
            raise ValueError("a cache continues one text a row: it cannot go with segments")
        order = place_in_segments(segments, mask)
        return None, order, order
    mask = jnp.ones_like(ids) if mask is None else mask
    if cache is None:
        order = place(mask)
        return None, order, order
    slots, length = cache.order.shape[1], ids.shape[1]
    if length > slots:
        raise ValueError(f"{length} new tokens, but the cache has {slots} slots")
    order = place(mask, cache.lengths)
    kept = lax.dynamic_update_slice(cache.order, order, (jnp.int32(0), cache.used))
    return cache._replace(order=kept), order, kept


def remember(
    cache: Cache | None,
    layer: Int[Array, ""],
    k: Float[Array, "batch length kv_heads dim"],
    v: Float[Array, "batch length kv_heads dim"],
) -> tuple[Cache | None, Float[Array, "..."], Float[Array, "..."]]:
    """Writes one layer's keys and values into the next free slots; returns those of all slots.

    Every layer writes to the same slots: `used` moves only when the pass ends (`advance`).
    Without a cache the keys and values are returned as they came.
    """
    if cache is None:
        return None, k, v
    zero = jnp.int32(0)
    at = (layer, zero, zero, cache.used, zero)
    k, v = (x.swapaxes(1, 2)[None].astype(cache.k.dtype) for x in (k, v))
    cache = cache._replace(
        k=lax.dynamic_update_slice(cache.k, k, at), v=lax.dynamic_update_slice(cache.v, v, at)
    )
    k, v = (lax.dynamic_index_in_dim(x, layer, keepdims=False) for x in (cache.k, cache.v))
    return cache, k.swapaxes(1, 2), v.swapaxes(1, 2)


def advance(cache: Cache, length: int) -> Cache:
    """Ends a pass over `length` tokens."""
    return cache._replace(used=cache.used + length)


def place(
    mask: Int[Array, "batch length"], before: Int[Array, " batch"] | int = 0
) -> Int[Array, "batch length"]:
    """Numbers the real tokens of each row from `before`; padding is -1.

    >>> place(jnp.array([[0, 1, 1], [1, 1, 0]])).tolist()
    [[-1, 0, 1], [0, 1, -1]]
    """
    real = (mask != 0).astype(jnp.int32)
    start = jnp.asarray(before, jnp.int32).reshape(-1, 1)
    return jnp.where(real == 1, jnp.cumsum(real, axis=1) - 1 + start, -1)


def visible(
    queries: Int[Array, "batch queries"],
    keys: Int[Array, "batch keys"],
    segments: Int[Array, "batch queries"] | None = None,
) -> Bool[Array, "batch 1 queries keys"]:
    """Where a query may look: at real tokens of its text that do not come after it.

    Padding within a document may look too; what comes of it is of no account.

    Args:
        queries: the place of each query in its text; -1 for padding.
        keys: the place of each key.
        segments: the documents of each row, where the keys are those of the queries; None: one.
    """
    queries, keys = queries[:, None, :, None], keys[:, None, None, :]
    if segments is None:
        return (keys >= 0) & (keys <= queries)
    return (keys >= 0) & up_to_here(segments)
