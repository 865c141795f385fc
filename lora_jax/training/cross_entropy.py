"""Cross-entropy of a vocabulary, a chunk of tokens at a time: no array holds all logits."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from lora_jax.models.outputs import Head, Outputs
from lora_jax.models.rows import shares

CHUNK = 512


class TokenLosses(NamedTuple):
    """How well each token was predicted.

    Attributes:
      loss: cross-entropy in nats.
      right: whether the target has the highest logit.
    """

    loss: Float[Array, "batch length"]
    right: Bool[Array, "batch length"]


def cross_entropy(targets: Int[ArrayLike, "batch length"], chunk: int = CHUNK) -> Outputs:
    """Asks a decoder for the cross-entropy of each token in place of its logits.

    The head is applied to a chunk of tokens at a time, and again in the backward pass, so logits of
    one chunk are held at most. As it is applied inside the model, it may be adapted, tied,
    quantised or capped.

    Args:
      targets: what is to be predicted at each place, below the size of the vocabulary.
      chunk: tokens of a chunk on each device, at least 1; of each row it takes as many as of the
        others, so that a batch which is split over devices stays so. Fewer than some 512 are
        slower, and gather a head that is split more often.

    Returns:
      What `apply(params, ids, outputs=...)` takes to return `TokenLosses`.

    Raises:
      ValueError: a chunk of no tokens.
    """
    if chunk < 1:
        raise ValueError(f"a chunk of {chunk} tokens: at least 1 is needed")
    return jax.tree_util.Partial(functools.partial(_in_chunks, chunk), jnp.asarray(targets))


def _in_chunks(
    chunk: int,
    targets: Int[Array, "batch length"],
    hidden: Float[Array, "batch length dim"],
    head: Head,
) -> TokenLosses:
    batch, length = targets.shape
    count = math.ceil(length / max(1, chunk * shares(batch) // batch))
    columns = math.ceil(length / count)

    def split(x: Array) -> Array:
        padded = jnp.pad(x, [(0, 0), (0, count * columns - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(padded.reshape(batch, count, columns, *x.shape[2:]), 1, 0)

    def join(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(batch, count * columns)[:, :length]

    @functools.partial(jax.checkpoint, prevent_cse=count == 1)
    def losses(part: tuple[Array, Array]) -> TokenLosses:
        return _token_losses(head(part[0]), part[1])

    # The places of padding are predicted too, and cut off.
    return TokenLosses(*map(join, lax.map(losses, (split(hidden), split(targets)))))


def _token_losses(
    logits: Float[Array, "batch length vocabulary"], targets: Int[Array, "batch length"]
) -> TokenLosses:
    peak = lax.stop_gradient(logits.max(axis=-1))
    total = peak + jnp.log(jnp.exp(logits - peak[..., None]).sum(axis=-1))
    # Compared, not looked up: that is the same for a vocabulary split over devices.
    is_target = lax.broadcasted_iota(targets.dtype, logits.shape, 2) == targets[..., None]
    target = jnp.where(is_target, logits, 0).sum(axis=-1)
    return TokenLosses(total - target, target >= peak)
