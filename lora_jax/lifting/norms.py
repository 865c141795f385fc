"""The norm of W + ΔW, without forming ΔW."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax.lifting.algebra import Factor, Term, contract


def adapted_norm(base: Any, terms: Sequence[Term], kept: Sequence[int]) -> jax.Array:
    """``‖W + Σ terms‖`` over the axes that are not kept.

    By columns, ``‖W + ΔW‖² = ‖W‖² + 2⟨W, ΔW⟩ + ‖ΔW‖²``, each product contracted factor by factor.

    Args:
      base: W.
      terms: of the weight's delta.
      kept: axes of the result, in this order.

    Returns:
      An fp32 array over the kept axes.
    """
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


def _renamed(factor: Factor) -> Factor:
    """The same factor with hidden axes of its own, so that ΔW's two copies are summed apart."""
    return factor.with_axes({label: f"{label}'" for label in factor.hidden})
