"""The keys and values that a decoder has computed, kept while it generates."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class Cache(NamedTuple):
    """Keys and values of all layers, in slots that are filled one after another.

    All rows of a batch fill the same slots, padding included; `order` tells the real tokens apart.

    Attributes:
        k: keys `[layers, batch, slots, kv_heads, head_dim]`.
        v: values, of the same shape.
        order: `[batch, slots]`: the place of each slot's token in its text, counted from 0; -1 for
            padding and for empty slots.
        used: number of slots in use, a scalar.
    """

    k: Float[Array, "layers batch slots kv_heads head_dim"]
    v: Float[Array, "layers batch slots kv_heads head_dim"]
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


def empty_cache(
    layers: int, batch: int, slots: int, kv_heads: int, head_dim: int, dtype: str
) -> Cache:
    """Makes a cache in which no slot is used."""
    zeros = jnp.zeros((layers, batch, slots, kv_heads, head_dim), dtype)
    return Cache(zeros, zeros, jnp.full((batch, slots), -1, jnp.int32), jnp.int32(0))


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


def store(
    cache: Cache, layer: Int[Array, ""], k: Float[Array, "..."], v: Float[Array, "..."]
) -> Cache:
    """Writes the keys and values of one layer, `[batch, length, …]`, into the next free slots.

    `used` stays, so that every layer writes to the same slots; `advance` moves it.
    """
    zero = jnp.int32(0)
    at = (layer, zero, cache.used, zero, zero)
    return cache._replace(
        k=lax.dynamic_update_slice(cache.k, k[None].astype(cache.k.dtype), at),
        v=lax.dynamic_update_slice(cache.v, v[None].astype(cache.v.dtype), at),
    )


def visible(
    queries: Int[Array, "batch queries"], keys: Int[Array, "batch keys"]
) -> Bool[Array, "batch 1 queries keys"]:
    """Where a query may look: at real tokens that do not come after it.

    Args:
        queries: the place of each query in its text; -1 for padding.
        keys: the place of each key.
    """
    seen = (keys[:, None, :] >= 0) & (keys[:, None, :] <= queries[:, :, None])
    return seen[:, None]
