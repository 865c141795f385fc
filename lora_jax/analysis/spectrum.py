"""How many directions a change of a weight really has, from its singular values alone."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lora_jax.adapters.convert import ranks_for_energy


def entropy_rank(values: Float[Array, "*layers rank"]) -> Float[Array, "*layers"]:
    """The effective rank of Roy and Vetterli: e to the entropy of σ/Σσ; 0 for a change of zero.

    Args:
      values: singular values.

    Returns:
      Between 1 and the rank; r for r equal values.

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality".

    >>> entropy_rank(jnp.array([[2.0, 2.0, 0.0], [5.0, 0.0, 0.0]])).round(3)
    Array([2., 1.], dtype=float32)
    """
    total = values.sum(axis=-1, keepdims=True)
    share = values / jnp.where(total > 0, total, 1.0)
    entropy = -jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1.0)), 0.0).sum(-1)
    return jnp.where(total[..., 0] > 0, jnp.exp(entropy), 0.0)


def energy_rank(values: Float[Array, "layers rank"], energy: float = 0.9) -> Int[Array, " layers"]:
    """The fewest directions that hold a share of the energy Σσ².

    Biderman et al. measure ΔW so, with 0.9 of the variance (arXiv 2405.09673).

    Args:
      values: singular values, falling.
      energy: the share, in (0, 1].

    Raises:
      ValueError: a share out of range.

    >>> energy_rank(jnp.array([[3.0, 1.0, 0.0]]), 0.95)
    Array([2], dtype=int32)
    """
    if not 0.0 < energy <= 1.0:
        raise ValueError(f"energy must lie in (0, 1], not {energy!r}")
    return jnp.asarray(ranks_for_energy(values, energy), jnp.int32)


def stable_rank(values: Float[Array, "*layers rank"]) -> Float[Array, "*layers"]:
    """Σσ²/σ₁²: how many directions as strong as the strongest would hold the energy.

    Source: Rudelson and Vershynin 2007, "Sampling from large matrices".

    >>> stable_rank(jnp.array([[2.0, 2.0, 0.0]]))
    Array([2.], dtype=float32)
    """
    largest = values.max(axis=-1)
    return (values**2).sum(axis=-1) / jnp.where(largest > 0, largest**2, 1.0)
