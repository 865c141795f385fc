"""What a decoder returns of its last hidden states."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lora_jax.models.cache import Cache, advance

OUTPUTS = ("logits", "last", "hidden")

Head = Callable[[Float[Array, "batch length dim"]], Float[Array, "batch length vocabulary"]]

# A name in OUTPUTS, or a function of hidden states and head. As a `jax.tree_util.Partial` the
# arrays that the function needs are inputs of the model like any other.
Outputs = str | Callable[[Float[Array, "batch length dim"], Head], Any]


def finish(
    hidden: Float[Array, "batch length dim"],
    order: Int[Array, "batch length"],
    cache: Cache | None,
    outputs: Outputs,
    head: Head,
) -> Any:
    """Ends the pass of a decoder.

    Args:
        hidden: the normalised hidden states of the last layer.
        order: the place of each token in its text, -1 for padding.
        cache: the cache with the keys and values of this pass, or None.
        outputs: "logits" of every token, "last": those of each row's last real token
            `[batch, vocabulary]`, or "hidden": the hidden states themselves; or a function
            `outputs(hidden, head)` whose result is returned, such as a loss that never holds all
            logits at once.
        head: hidden states to logits.

    Returns:
        The output, and with a cache the cache too.

    Raises:
        ValueError: `outputs` is unknown.
    """
    result: Any
    if callable(outputs):
        result = outputs(hidden, head)
    elif outputs not in OUTPUTS:
        raise ValueError(f"unknown outputs {outputs!r}; known: {', '.join(OUTPUTS)}")
    elif outputs == "last":
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
