"""Scaled dot-product attention."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from lora_jax.models.checks import check_name
from lora_jax.models.normal import softmax
from lora_jax.models.product import product

# "plain" is written out here and is the reference; "blocks" is the same for one head of one text at
# a time; "xla" and "cudnn" are those of `jax.nn.dot_product_attention`; "auto" chooses by device.
IMPLEMENTATIONS = ("auto", "plain", "blocks", "xla", "cudnn")

# The widest head that cuDNN's flash attention takes on every GPU that has it.
_WIDEST = 128
# Scores of one head from which on a CPU is faster, and takes less memory, with one at a time.
_MANY = 512 * 512


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
        implementation = _best(q, k, dtype, softcap)
    if implementation not in ("plain", "blocks"):
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
    # Heads before places, in which order products come out: else all scores would be transposed.
    kv_heads = k.shape[2]
    grouped = q.reshape(*q.shape[:2], kv_heads, -1, q.shape[-1]).transpose(0, 2, 3, 1, 4)
    k = k.swapaxes(1, 2)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mix = functools.partial(_mix, dtype=dtype, scale=scale, softcap=softcap)
    if implementation == "blocks":
        v = v.swapaxes(1, 2)
        mix = functools.partial(_in_blocks, functools.partial(mix, mixing="gqs,sd->gqd"))
    bias = None if bias is None else _group(bias, kv_heads)
    mixed = mix(grouped, k, v, _group(allowed, kv_heads), bias)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(*q.shape[:3], v.shape[-1])


def _mix(
    q: Float[Array, "... group queries dim"],
    k: Float[Array, "... keys dim"],
    v: Float[Array, "... value_dim"],
    allowed: Bool[Array, "... #group #queries keys"],
    bias: Float[Array, "... group #queries keys"] | None,
    *,
    dtype: str,
    scale: float,
    softcap: float | None,
    mixing: str = "bhgqs,bshd->bhgqd",
) -> Float[Array, "... group queries value_dim"]:
    """The formula itself, with all scores at once.

    Values come in their own order: XLA's partitioner may turn the product of their gradient round
    where their transposition is one of its own, and a CPU is then slower.
    """
    early = _is_exact(scale, dtype)  # there are fewer queries than scores
    scores = product("...gqd,...sd->...gqs", q * scale if early else q, k, dtype)
    scores = scores if early else scores * scale
    if softcap is not None:
        scores = jnp.tanh(scores / softcap) * softcap
    if bias is not None:
        scores = scores + bias
    # The lowest finite number, not -inf: a row of padding alone then stays free of NaN. Added, so
    # that nothing of the size of the scores is kept of the mask.
    scores = scores + jnp.where(allowed, 0, jnp.finfo(scores.dtype).min).astype(scores.dtype)
    return product(mixing, softmax(scores, dtype), v, dtype).astype(dtype)


def _is_exact(scale: float, dtype: str) -> bool:
    """Whether queries of this type may take the scale and lose no more than scores would."""
    return math.frexp(scale)[0] == 0.5 or jnp.finfo(dtype).bits >= 32


def _in_blocks(mix: Callable[..., Array], *arrays: Array | None) -> Array:
    """Mixes for one text and one head of keys at a time, whose scores stay in a CPU's caches.

    The backward pass computes them again: nothing of their size is kept.
    """
    one = jax.checkpoint(mix, prevent_cse=False)
    return _each(functools.partial(_each, one), *arrays)


def _each(function: Callable[..., Array], *arrays: Array | None) -> Array:
    """Calls a function for each slice of arrays; one that has a single slice goes to all calls."""
    count = max(len(x) for x in arrays if x is not None)
    sliced = {i: x for i, x in enumerate(arrays) if x is not None and len(x) == count}
    shared = [x if x is None else x[0] for x in arrays]
    call = lambda own: function(*(own.get(i, x) for i, x in enumerate(shared)))
    return lax.map(call, sliced)


def _best(q: Array, k: Array, dtype: str, softcap: float | None) -> str:
    """The fused implementation where the backend has one for these sizes, else one written here."""
    if jax.default_backend() == "cpu":
        return "blocks" if q.shape[1] * k.shape[1] >= _MANY else "plain"
    dim, narrow = q.shape[-1], dtype in ("bfloat16", "float16")
    fits = softcap is None and dim <= _WIDEST and dim % 8 == 0 and narrow
    return "cudnn" if fits and jax.default_backend() == "gpu" else "plain"


def _group(x: Array, kv_heads: int) -> Array:
    """Splits the heads of `[batch, heads, queries, keys]`, or one head for all, into groups."""
    if x.shape[1] == 1:
        return x[:, :, None]
    return x.reshape(x.shape[0], kv_heads, -1, *x.shape[2:])
