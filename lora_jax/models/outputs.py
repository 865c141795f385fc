"""What a decoder returns of its last hidden states."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lora_jax.models.cache import Cache, advance

OUTPUTS = ("logits", "last", "hidden")


def finish(
    hidden: Float[Array, "batch length dim"],
    order: Int[Array, "batch length"],
    cache: Cache | None,
    outputs: str,
    head: Callable[[Float[Array, "batch length dim"]], Float[Array, "batch length vocabulary"]],
) -> Float[Array, "..."] | tuple[Float[Array, "..."], Cache]:
    """Ends the pass of a decoder.

    Args:
        hidden: the normalised hidden states of the last layer.
        order: the place of each token in its text, -1 for padding.
        cache: the cache with the keys and values of this pass, or None.
        outputs: "logits" of every token, "last": those of each row's last real token
            `[batch, vocabulary]`, or "hidden": the hidden states themselves.
        head: hidden states to logits.

    Returns:
        The output, and with a cache the cache too.

    Raises:
        ValueError: `outputs` is unknown.
    """
    if outputs not in OUTPUTS:
        raise ValueError(f"unknown outputs {outputs!r}; known: {', '.join(OUTPUTS)}")
    if outputs == "last":
        last = jnp.argmax(order, axis=1)[:, None, None]
        result = head(jnp.take_along_axis(hidden, last, axis=1))[:, 0]
    else:
        result = head(hidden) if outputs == "logits" else hidden
    return result if cache is None else (result, advance(cache, order.shape[1]))


def check_length(length: int, cache: Cache | None, limit: int) -> None:
    """Checks that positions exist for all tokens.

    Raises:
        ValueError: the text, or the cache, is longer than the model's context.
    """
    if cache is not None:
        length = cache.order.shape[1]
    if length > limit:
        what = "the batch is" if cache is None else "the cache is"
        raise ValueError(f"{what} {length} tokens long, but the model's context is {limit}")
