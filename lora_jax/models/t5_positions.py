"""Relative positions as T5 scores them: one number for each head and bucket of distances."""

import math

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from lora_jax.models.disentangled import skew
from lora_jax.models.layers import Embedding
from lora_jax.models.t5_config import T5Config


def bucket_table(buckets: int, farthest: int) -> Int[np.ndarray, " distances"]:
    """The bucket of each distance from 0 to `farthest`.

    Half of the buckets hold one distance each, the others wider and wider ranges. The logarithm is
    rounded to float32 as in the original, as what falls on a border may depend on that.

    Args:
        buckets: their number.
        farthest: distance from which on all are in the last bucket.

    Source: Raffel et al., 2020, section 2.1.

    >>> bucket_table(4, 8).tolist()
    [0, 1, 2, 2, 3, 3, 3, 3, 3]
    """
    near = buckets // 2
    distances = np.arange(farthest + 1)
    ratio = np.maximum(distances, near).astype(np.float32) / np.float32(near)
    steps = np.log(ratio) / np.float32(math.log(farthest / near)) * np.float32(buckets - near)
    far = np.minimum(near + steps.astype(np.int32), buckets - 1)
    return np.where(distances < near, distances, far).astype(np.int32)


class RelativePositions(nnx.Module):
    """What is added to the scores of a stack's self-attention, the same in all its layers.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
        both_sides: queries look at keys on either side, which have buckets of their own.
    """

    def __init__(self, config: T5Config, rngs: nnx.Rngs, *, both_sides: bool) -> None:
        self.relative = Embedding(config.buckets, config.heads, dtype=config.dtype, rngs=rngs)
        self.config = config
        self.both_sides = both_sides

    def within(self, length: int) -> Float[Array, "1 heads length length"]:
        """The bias between all places of a text, from its 2·length distances by shifting."""
        by_distance = self.relative(self.buckets(jnp.arange(2 * length) - (length - 1))).T
        rows = jnp.broadcast_to(by_distance[:, None], (self.config.heads, length, 2 * length))
        return skew(rows)[None]

    def between(
        self, queries: Int[Array, "batch queries"], keys: Int[Array, "batch keys"]
    ) -> Float[Array, "batch heads queries keys"]:
        """The bias between any places, as a cache has them."""
        distances = keys[:, None, :] - queries[:, :, None]
        return jnp.moveaxis(self.relative(self.buckets(distances)), 3, 1)

    def buckets(self, distances: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
        """The rows of the table for distances, place of the key less place of the query."""
        config = self.config
        count = config.buckets // 2 if self.both_sides else config.buckets
        table = jnp.asarray(bucket_table(count, config.farthest))
        after = distances if self.both_sides else jnp.minimum(distances, 0)
        found = table[jnp.minimum(jnp.abs(after), config.farthest)]
        return found + jnp.where(distances > 0, count, 0) if self.both_sides else found
