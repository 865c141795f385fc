"""Softmax and normalisation of the last axis, with little kept for the backward pass.

Their derivatives are written out in terms of one array, the result or the input. Of those that
differentiate each operation, a compiler keeps several arrays of the same size.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def softmax(scores: Float[Array, "... keys"], dtype: str | None = None) -> Float[Array, "... keys"]:
    """exp(scores) in proportion to their sum over the last axis, computed in the type of `scores`.

    Args:
        scores: finite numbers.
        dtype: name of the type of the result, and of what the backward pass keeps of it; None for
            that of `scores`.

    Returns:
        Weights that add up to 1.
    """
    below = scores - scores.max(-1, keepdims=True)
    # Of a quotient, a compiler may keep both parts beside it.
    total = jnp.log(jnp.exp(below).sum(-1, keepdims=True))
    return jnp.exp(below - total).astype(dtype or scores.dtype)


@softmax.defjvp
def _softmax_derivative(dtype: str | None, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (scores,), (moved,) = primals, tangents
    weights = softmax(scores, dtype)
    wide = weights.astype(scores.dtype)
    change = wide * (moved - (wide * moved).sum(-1, keepdims=True))
    return weights, change.astype(weights.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def divide_by_size(x: Float[Array, "... dim"], eps: float) -> Float[Array, "... dim"]:
    """Divides by the root of the mean square over the last axis, to which `eps` is added."""
    return x * _inverse_size(x, eps)


@divide_by_size.defjvp
def _divided_derivative(eps: float, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (moved,) = primals, tangents
    inverse = _inverse_size(x, eps)
    along = inverse * inverse * _mean(x * moved)
    return x * inverse, inverse * (moved - x * along)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def standardize(x: Float[Array, "... dim"], eps: float) -> Float[Array, "... dim"]:
    """Subtracts the mean over the last axis and divides by the root of the variance plus `eps`."""
    centred = x - _mean(x)
    return centred * _inverse_size(centred, eps)


@standardize.defjvp
def _standardized_derivative(eps: float, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (moved,) = primals, tangents
    centred = x - _mean(x)
    inverse = _inverse_size(centred, eps)
    along = inverse * inverse * _mean(centred * moved)
    # Centred last: so the sum of the transposed map takes x itself, of which no copy is kept.
    change = moved - x * along
    return centred * inverse, inverse * (change - _mean(change))


def _mean(x: Array) -> Array:
    return x.mean(-1, keepdims=True)


def _inverse_size(x: Array, eps: float) -> Array:
    return lax.rsqrt(_mean(x * x) + eps)
