"""Scaled dot-product attention."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lora_jax.models.product import product


def attention(
    q: Float[Array, "batch queries heads dim"],
    k: Float[Array, "batch keys heads dim"],
    v: Float[Array, "batch keys heads dim"],
    allowed: Bool[Array, "#batch #heads #queries keys"],
    dtype: str,
) -> Float[Array, "batch queries heads dim"]:
    """Mixes the values of the allowed keys by softmax(q·k / √dim), taken in at least float32.

    Args:
        q: queries.
        k: keys.
        v: values.
        allowed: True where a query may look at a key.
        dtype: name of the type of the operands and of the output.

    Returns:
        One mixture of values for each query and head.

    Source: Vaswani et al., 2017, equation 1.
    """
    scores = product("bqhd,bkhd->bhqk", q, k, dtype) * q.shape[-1] ** -0.5
    # The lowest finite number, not -inf: a row of padding alone then stays free of NaN.
    scores = jnp.where(allowed, scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1)
    return product("bhqk,bkhd->bqhd", weights, v, dtype).astype(dtype)
