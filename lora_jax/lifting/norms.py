"""The norm of W + ΔW, without forming ΔW."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lora_jax.lifting.algebra import Factor, Term, contract
from lora_jax.lifting.packed import is_packed, unpacked


def adapted_norm(base: Any, terms: Sequence[Term], kept: Sequence[int]) -> jax.Array:
    """``‖W + Σ terms‖`` over the axes that are not kept.

    By columns, ``‖W + ΔW‖² = ‖W‖² + 2⟨W, ΔW⟩ + ‖ΔW‖²``, each product contracted factor by factor.

    Args:
      base: W; of a packed one, one layer at a time is made dense.
      terms: of the weight's delta.
      kept: axes of the result, in this order.

    Returns:
      An fp32 array over the kept axes.
    """
    if is_packed(base) and base.leading and 0 in kept:
        return _norm_by_layer(base, terms, kept)
    base = unpacked(base)
    sizes = dict(enumerate(base.shape))
    wide = jnp.promote_types(base.dtype, jnp.float32)
    weight = Factor(base.astype(wide), tuple(range(base.ndim)))
    squares = Factor(jnp.square(weight.array), weight.axes)
    square = contract((squares,), kept, sizes, dtype=wide)
    for term in terms:
        square += 2 * contract((weight, *term), kept, sizes, dtype=wide)
        for other in terms:
            square += contract((*term, *map(_renamed, other)), kept, sizes, dtype=wide)
    # Rounding can leave a small negative where W + ΔW vanishes.
    return jnp.sqrt(jnp.maximum(square, jnp.finfo(wide).tiny))


def _norm_by_layer(base: Any, terms: Sequence[Term], kept: Sequence[int]) -> jax.Array:
    factors = [factor for term in terms for factor in term]
    sliced = [jnp.moveaxis(f.array, f.axes.index(0), 0) for f in factors if f.has(0)]

    def layer(values: tuple[Any, list[Any]]) -> jax.Array:
        base, arrays = values[0], iter(values[1])
        own = iter([f.at_layer(next(arrays) if f.has(0) else f.array) for f in factors])
        own_terms = [tuple(next(own) for _ in term) for term in terms]
        return adapted_norm(base, own_terms, [axis - 1 for axis in kept if axis != 0])

    # Recomputed in a backward pass, which would keep the dense layers otherwise.
    norms = lax.map(jax.checkpoint(layer), (base, sliced))
    return jnp.moveaxis(norms, 0, list(kept).index(0))


def _renamed(factor: Factor) -> Factor:
    """The same factor with hidden axes of its own, so that ΔW's two copies are summed apart."""
    return factor.with_axes({label: f"{label}'" for label in factor.hidden})
