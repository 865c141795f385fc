"""How many intruder dimensions an adapter of any method brings, counted and left as they are.

Shuttleworth et al., "LoRA vs Full Fine-tuning: An Illusion of Equivalence", arXiv 2410.21228.
`lora_jax.reduce_intruders` makes those of a LoRA smaller.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from lora_jax.adapters.intruders import resemblance
from lora_jax.analysis.change import Factors, base_matrices, changed_matrices, matrix_sites
from lora_jax.lifting import Lifted

TOP, THRESHOLD = 10, 0.5  # as `reduce_intruders` and PEFT take them


def leading_resemblance(
    lifted: Lifted, params: Any, factors: Factors, *, top: int = TOP
) -> dict[str, Float[Array, "layers top"]]:
    """How much the leading singular vectors of W + ΔW (output side) resemble one of W's.

    Args:
      lifted: over sites of any methods.
      params: the frozen params.
      factors: of the adapter.
      top: how many leading singular vectors are looked at; of a smaller matrix, all.

    Returns:
      For each matrix the largest |cosine| of each leading vector with any singular vector of W.

    Raises:
      ValueError: fewer than one vector, or factors that do not fit.
    """
    if top < 1:
        raise ValueError(f"top must be an integer of at least 1, not {top!r}")

    def one_layer(own: tuple[jax.Array, jax.Array]) -> jax.Array:
        base, change = own
        with jax.default_matmul_precision("highest"):
            of_base = jnp.linalg.svd(base, full_matrices=False)[2]
            of_both = jnp.linalg.svd(base + change, full_matrices=False)[2]
            return resemblance(of_both[:top], of_base)

    return {
        site.path: lax.map(
            one_layer,
            (base_matrices(site, params), changed_matrices(site, params, factors)),
        )
        for site in matrix_sites(lifted)
    }


def count_intruders(
    lifted: Lifted,
    params: Any,
    factors: Factors,
    *,
    top: int = TOP,
    threshold: float = THRESHOLD,
) -> dict[str, Int[Array, " layers"]]:
    """Counts the leading singular vectors of W + ΔW that resemble none of W's.

    Args:
      lifted: over sites of any methods.
      params: the frozen params.
      factors: of the adapter.
      top: as in `leading_resemblance`.
      threshold: an intruder's largest |cosine| with a singular vector of W lies below, in [0, 1].

    Returns:
      For each matrix a number for each stacked layer.

    Raises:
      ValueError: a value out of range, or factors that do not fit.
    """
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold must lie in [0, 1], not {threshold!r}")
    found = leading_resemblance(lifted, params, factors, top=top)
    return {path: (cosines < threshold).sum(axis=-1) for path, cosines in found.items()}
