"""Scaled dot-product attention."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lora_jax.models.product import product


def attention(
    q: Float[Array, "batch queries heads dim"],
    k: Float[Array, "batch keys kv_heads dim"],
    v: Float[Array, "batch keys kv_heads value_dim"],
    allowed: Bool[Array, "#batch #heads #queries keys"],
    dtype: str,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    bias: Float[Array, "#batch heads #queries keys"] | None = None,
) -> Float[Array, "batch queries heads value_dim"]:
    """Mixes the values of the allowed keys by softmax(scale · q·k), taken in at least float32.

    Args:
        q: queries.
        k: keys; several heads of queries may share one, and then lie side by side.
        v: values.
        allowed: True where a query may look at a key.
        dtype: name of the type of the operands and of the output.
        scale: what scores are multiplied with; None is 1/√dim.
        softcap: scores are squeezed into ±softcap by tanh (Gemma 2).
        bias: added to the scores, such as T5's relative positions.

    Returns:
        One mixture of values for each query and head.

    Source: Vaswani et al., 2017, equation 1; grouped heads: Ainslie et al., 2023.
    """
    kv_heads = k.shape[2]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    grouped = q.reshape(*q.shape[:2], kv_heads, -1, q.shape[-1])
    scores = product("bqkgd,bskd->bkgqs", grouped, k, dtype) * scale
    if softcap is not None:
        scores = jnp.tanh(scores / softcap) * softcap
    if bias is not None:
        scores = scores + _group(bias, kv_heads)
    # The lowest finite number, not -inf: a row of padding alone then stays free of NaN.
    scores = jnp.where(_group(allowed, kv_heads), scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1)
    mixed = product("bkgqs,bskd->bqkgd", weights, v, dtype).astype(dtype)
    return mixed.reshape(*q.shape[:3], v.shape[-1])


def _group(x: Array, kv_heads: int) -> Array:
    """Splits the heads of `[batch, heads, queries, keys]`, or one head for all, into groups."""
    if x.shape[1] == 1:
        return x[:, :, None]
    return x.reshape(x.shape[0], kv_heads, -1, *x.shape[2:])
