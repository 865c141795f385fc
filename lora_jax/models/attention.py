"""Scaled dot-product attention."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lora_jax.models.checks import check_name
from lora_jax.models.normal import softmax
from lora_jax.models.product import product

# "plain" is written out here and is the reference; "xla" and "cudnn" are those of
# `jax.nn.dot_product_attention`; "auto" is "cudnn" where it can be, else "plain".
IMPLEMENTATIONS = ("auto", "plain", "xla", "cudnn")

# The widest head that cuDNN's flash attention takes on every GPU that has it.
_WIDEST = 128


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
    implementation: str = "plain",
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
        implementation: a name in `IMPLEMENTATIONS`. "cudnn" needs a GPU and 16-bit types, and never
            holds all scores.

    Returns:
        One mixture of values for each query and head.

    Raises:
        ValueError: the implementation is unknown, or cannot squeeze scores.

    Source: Vaswani et al., 2017, equation 1; grouped heads: Ainslie et al., 2023.
    """
    check_name("attention", implementation, IMPLEMENTATIONS)
    if implementation == "auto":
        implementation = _best(q.shape[-1], dtype, softcap)
    if implementation != "plain":
        if softcap is not None:
            raise ValueError(f"attention {implementation!r} cannot squeeze scores; 'auto' can")
        q, k, v = (x.astype(dtype) for x in (q, k, v))
        named: Any = {
            "bias": bias,
            "mask": allowed,
            "scale": scale,
            "implementation": implementation,
        }
        return jax.nn.dot_product_attention(q, k, v, **named)
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
    weights = softmax(scores, dtype)
    mixed = product("bkgqs,bskd->bqkgd", weights, v, dtype).astype(dtype)
    return mixed.reshape(*q.shape[:3], v.shape[-1])


def _best(dim: int, dtype: str, softcap: float | None) -> str:
    """The fused implementation where the backend has one for these sizes, else the plain one."""
    fits = softcap is None and dim <= _WIDEST and dim % 8 == 0 and dtype in ("bfloat16", "float16")
    return "cudnn" if fits and jax.default_backend() == "gpu" else "plain"


def _group(x: Array, kv_heads: int) -> Array:
    """Splits the heads of `[batch, heads, queries, keys]`, or one head for all, into groups."""
    if x.shape[1] == 1:
        return x[:, :, None]
    return x.reshape(x.shape[0], kv_heads, -1, *x.shape[2:])
