"""The oracle: W + ΔW as an array. It defines what is correct, and is the fallback and the merge."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lora_jax.lifting.algebra import AdaptedWeight, Delta, expand, form
from lora_jax.lifting.packed import unpacked


def dense(weight: AdaptedWeight) -> Any:
    """``gain · (base + Σ terms)``, computed in at least fp32, in the weight's own dtype."""
    return apply_delta(weight.base, weight.delta).astype(weight.dtype)


def apply_delta(base: Any, delta: Delta) -> Any:
    """``gain · (base + Σ terms)`` in the wider of fp32 and the base's dtype."""
    if delta.is_identity:
        return unpacked(base)
    wide = jnp.promote_types(base.dtype, jnp.float32)
    value = unpacked(base, wide)
    for term in _terms(delta, base.shape, wide):
        value = value + term
    for gain in delta.gain:
        value = value * expand(gain.astype(wide), base.shape)
    return value


def remove_delta(merged: Any, delta: Delta) -> jax.Array:
    """The base of a merged weight: the inverse of `apply_delta`, exact to rounding."""
    wide = jnp.promote_types(merged.dtype, jnp.float32)
    value = unpacked(merged, wide)
    for gain in delta.gain:
        value = value / expand(gain.astype(wide), merged.shape)
    for term in _terms(delta, merged.shape, wide):
        value = value - term
    return value.astype(merged.dtype)


def _terms(delta: Delta, shape: tuple[int, ...], dtype: Any) -> list[jax.Array]:
    exact = lax.Precision.HIGHEST
    return [form(term, shape, dtype=dtype, precision=exact) for term in delta.terms]
