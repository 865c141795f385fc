"""The two passes of a language model that generation is made of: over a prompt, over one token."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lora_jax.models import new_cache, restack


def start_id(config: Any) -> int | None:
    """What the decoder of an encoder–decoder begins with; None for a model without encoder."""
    return getattr(config, "decoder_start_id", None)


def read_prompt(
    apply: Callable[..., Any],
    config: Any,
    params: Any,
    ids: Int[Array, "batch length"],
    mask: Int[Array, "batch length"],
    cache: Any,
    slots: int,
    inputs: Mapping[str, Any],
) -> tuple[Float[Array, "batch vocab"], Any]:
    """Reads whole prompts.

    Args:
        apply: the model.
        config: its config.
        params: its params, or their layers apart (`models.unstack`).
        ids: the prompts, of an encoder–decoder the encoder's.
        mask: 1 for real tokens, 0 for padding.
        cache: what came before; None: nothing did.
        slots: number of tokens that a new cache holds.
        inputs: what else `apply` takes with a prompt, such as images.

    Returns:
        Logits of each row's next token, and the cache.
    """
    params = restack(params)
    cache = _writable(new_cache(config, len(ids), slots) if cache is None else cache)
    start = start_id(config)
    if start is None:
        return apply(params, ids, mask, cache=cache, outputs="last", **inputs)
    begin = jnp.full((len(ids), 1), start, jnp.int32)
    return apply(params, ids, mask, begin, cache=cache, outputs="last", **inputs)


def read_token(
    apply: Callable[..., Any], config: Any, params: Any, tokens: Int[Array, " rows"], cache: Any
) -> tuple[Float[Array, "rows vocab"], Any]:
    """Reads one more token of each row.

    Args:
        apply: the model.
        config: its config.
        params: its params, or their layers apart (`models.unstack`).
        tokens: the token of each row; that of a finished row may be -1, and its logits mean
            nothing.
        cache: what came before.

    Returns:
        Logits of each row's next token, and the cache.
    """
    params, ids = restack(params), jnp.maximum(tokens, 0)[:, None]
    if start_id(config) is None:
        return apply(params, ids, cache=cache, outputs="last")
    return apply(params, None, None, ids, cache=cache, outputs="last")


def _writable(cache: Any) -> Any:
    """The cache in a type that this machine writes a part of without touching the rest.

    On CPU, XLA computes in 32 bits, and to write one token it converts all tokens there and back.
    The values are the same: what is written was rounded before.
    """
    if jax.default_backend() != "cpu":
        return cache
    narrow = lambda x: jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
    return jax.tree.map(lambda x: x.astype(jnp.float32) if narrow(x) else x, cache)


def align(
    ids: Int[Array, "batch length"], mask: Int[Array, "batch length"]
) -> Int[Array, "batch length"]:
    """Moves the real tokens of each row to its end; -1 for the padding before them.

    >>> align(jnp.array([[5, 6, 0]]), jnp.array([[1, 1, 0]])).tolist()
    [[-1, 5, 6]]
    """
    order = jnp.argsort(mask != 0, axis=1, stable=True)
    return jnp.take_along_axis(jnp.where(mask != 0, ids, -1), order, axis=1)


def prompt_text(
    config: Any, ids: Int[Array, "batch length"], mask: Int[Array, "batch length"], new: int
) -> Int[Array, "batch columns"]:
    """What the decoder has read, at the left of `new` free columns.

    Returns:
        Token ids; -1 for padding and in the free columns.
    """
    start = start_id(config)
    said = align(ids, mask) if start is None else jnp.full((len(ids), 1), start, jnp.int32)
    return jnp.pad(said, ((0, 0), (0, new)), constant_values=-1)


def is_stop(tokens: Int[Array, "..."], stop_ids: tuple[int, ...] | None) -> Array:
    """Which tokens end a text."""
    return jnp.isin(tokens, jnp.array(stop_ids or (), jnp.int32))
