"""Cross-entropy of a vocabulary, a chunk of tokens at a time: no array holds all logits."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
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


def cross_entropy(
    targets: Int[ArrayLike, "batch length"],
    chunk: int = CHUNK,
    *,
    frozen_head: bool = False,
    smoothing: float = 0.0,
) -> Outputs:
    """Asks a decoder for the cross-entropy of each token in place of its logits.

    The head is applied to a chunk of tokens at a time, and again in the backward pass, so logits of
    one chunk are held at most. As it is applied inside the model, it may be adapted, tied,
    quantised or capped.

    Args:
      targets: what is to be predicted at each place, below the size of the vocabulary.
      chunk: tokens of a chunk on each device, at least 1; of each row it takes as many as of the
        others, so that a batch which is split over devices stays so. Fewer than some 512 are
        slower, and gather a head that is split more often.
      frozen_head: the loss is differentiated, and not with respect to the head: the gradient of the
        hidden states is computed with the loss, which saves applying the head again. That of the
        head is then zero, whatever it is.
      smoothing: share in [0, 1) of the target that is spread over the whole vocabulary (Szegedy et
        al., 2015, section 7).

    Returns:
      What `apply(params, ids, outputs=...)` takes to return `TokenLosses`.

    Raises:
      ValueError: a chunk of no tokens, or a share that is none.
    """
    if chunk < 1:
        raise ValueError(f"a chunk of {chunk} tokens: at least 1 is needed")
    if not 0 <= smoothing < 1:
        raise ValueError(f"label smoothing of {smoothing}: a share lies in [0, 1)")
    kind = _losses_with_gradient if frozen_head else _losses_again
    losses = functools.partial(kind, smoothing)
    return jax.tree_util.Partial(functools.partial(_in_chunks, losses, chunk), jnp.asarray(targets))


def _in_chunks(
    losses_of: Callable[[Head, Array, Array], TokenLosses],
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

    parts = split(hidden), split(targets)
    # The places of padding are predicted too, and cut off.
    return TokenLosses(*map(join, lax.map(lambda part: losses_of(head, *part), parts)))


def _losses_again(smoothing: float, head: Head, hidden: Array, targets: Array) -> TokenLosses:
    """The losses; the backward pass computes the logits again."""
    losses = lambda hidden: _token_losses(head(hidden), targets, smoothing)
    return jax.checkpoint(losses)(hidden)


def _losses_with_gradient(
    smoothing: float, head: Head, hidden: Array, targets: Array
) -> TokenLosses:
    """The losses as a linear function of the hidden states: the backward pass is one product.

    The loss of a token depends on its own hidden state alone, so one pass backward gives the
    gradient of each. That of the logits, softmax less one for the target, is written out, so that
    it takes the place of the logits: a second array of their size is never held.
    """
    fixed = lax.stop_gradient(hidden)
    logits, pull_back = jax.vjp(head, fixed)
    peak, total = _peak_and_total(logits)
    target = _of_target(logits, targets)
    slope = jnp.exp(logits - total[..., None]) - _is_target(logits, targets)
    if smoothing:
        slope += smoothing * (_is_target(logits, targets) - 1 / logits.shape[-1])
    (gradient,) = pull_back(slope.astype(logits.dtype))
    moved = ((hidden - fixed) * lax.stop_gradient(gradient)).astype(logits.dtype).sum(axis=-1)
    loss = total - _smoothed(logits, target, smoothing)
    return TokenLosses(lax.stop_gradient(loss) + moved, target >= peak)


def _token_losses(
    logits: Float[Array, "batch length vocabulary"],
    targets: Int[Array, "batch length"],
    smoothing: float,
) -> TokenLosses:
    peak, total = _peak_and_total(logits)
    target = jnp.where(_is_target(logits, targets), logits, 0).sum(axis=-1)
    return TokenLosses(total - _smoothed(logits, target, smoothing), target >= peak)


def _smoothed(
    logits: Float[Array, "batch length vocabulary"],
    target: Float[Array, "batch length"],
    smoothing: float,
) -> Float[Array, "batch length"]:
    """The logit that the smoothed target expects."""
    if not smoothing:
        return target
    return (1 - smoothing) * target + smoothing * logits.mean(axis=-1)


def _peak_and_total(
    logits: Float[Array, "batch length vocabulary"],
) -> tuple[Float[Array, "batch length"], Float[Array, "batch length"]]:
    """The highest logit, and the logarithm of the sum of exponentials."""
    peak = lax.stop_gradient(logits.max(axis=-1))
    return peak, peak + jnp.log(jnp.exp(logits - peak[..., None]).sum(axis=-1))


def _of_target(
    logits: Float[Array, "batch length vocabulary"], targets: Int[Array, "batch length"]
) -> Float[Array, "batch length"]:
    """The logit of the target, where no derivative is taken."""
    if jax.sharding.get_abstract_mesh().empty:
        return jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.where(_is_target(logits, targets), logits, 0).sum(axis=-1)


def _is_target(
    logits: Float[Array, "batch length vocabulary"], targets: Int[Array, "batch length"]
) -> Bool[Array, "batch length vocabulary"]:
    # Compared, not looked up: that is the same for a vocabulary split over devices.
    return lax.broadcasted_iota(targets.dtype, logits.shape, 2) == targets[..., None]
