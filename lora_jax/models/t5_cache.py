"""What the decoder of an encoder–decoder keeps while it generates."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from lora_jax.models.cache import Cache, empty_cache


class Seq2SeqCache(NamedTuple):
    """The decoder's own keys and values, and those of the encoded text, computed once.

    Attributes:
        own: those of the decoder's tokens.
        k: keys of the encoded text `[layers, batch, source, heads, head_dim]`; the source has no
            length before a text was encoded.
        v: its values, of the same shape.
        mask: `[batch, source]`: 1 for real tokens of the encoded text, 0 for padding.
    """

    own: Cache
    k: Float[Array, "layers batch source heads head_dim"]
    v: Float[Array, "layers batch source heads head_dim"]
    mask: Int[Array, "batch source"]

    @property
    def order(self) -> Int[Array, "batch slots"]:
        """The place of each slot's token in the decoder's text; -1 for none."""
        return self.own.order

    @property
    def used(self) -> Int[Array, ""]:
        """Number of slots in use."""
        return self.own.used

    @property
    def lengths(self) -> Int[Array, " batch"]:
        """The number of real tokens of each row of the decoder."""
        return self.own.lengths

    def select(self, rows: Int[Array, " new_batch"]) -> "Seq2SeqCache":
        """The cache with these rows of the batch, as beam search and repetition need it."""
        return Seq2SeqCache(
            self.own.select(rows),
            jnp.take(self.k, rows, axis=1),
            jnp.take(self.v, rows, axis=1),
            jnp.take(self.mask, rows, axis=0),
        )

    def by_row(self) -> "Seq2SeqCache":
        """The cache of each row as a batch of one: every leaf has the rows on a new first axis."""
        return Seq2SeqCache(
            self.own.by_row(),
            jnp.moveaxis(self.k, 1, 0)[:, :, None],
            jnp.moveaxis(self.v, 1, 0)[:, :, None],
            self.mask[:, None],
        )

    def make_room(self, mask: Int[Array, "batch source"]) -> "Seq2SeqCache":
        """The cache with zeros for the keys and values of a text that is about to be encoded."""
        layers, _, _, heads, dim = self.k.shape
        zeros = jnp.zeros((layers, *mask.shape, heads, dim), self.k.dtype)
        return self._replace(k=zeros, v=zeros, mask=mask)

    def keep(
        self,
        layer: Int[Array, ""],
        k: Float[Array, "batch source heads head_dim"],
        v: Float[Array, "batch source heads head_dim"],
    ) -> "Seq2SeqCache":
        """The cache with one layer's keys and values of the encoded text."""
        return self._replace(
            k=lax.dynamic_update_index_in_dim(self.k, k.astype(self.k.dtype), layer, 0),
            v=lax.dynamic_update_index_in_dim(self.v, v.astype(self.v.dtype), layer, 0),
        )


def empty_seq2seq_cache(
    layers: int, batch: int, slots: int, heads: int, head_dim: int, dtype: str
) -> Seq2SeqCache:
    """Makes a cache in which no slot is used and no text is encoded."""
    nothing = jnp.zeros((layers, batch, 0, heads, head_dim), dtype)
    own = empty_cache(layers, batch, slots, heads, head_dim, dtype)
    return Seq2SeqCache(own, nothing, nothing, jnp.zeros((batch, 0), jnp.int32))
