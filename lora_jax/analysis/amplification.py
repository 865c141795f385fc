"""How much of W lies in the directions of ΔW, and how much ΔW amplifies what does.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 7.3 and
table 7.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lora_jax.analysis.change import Change
from lora_jax.analysis.subspace import random_directions


class Amplification(NamedTuple):
    """Table 7 for each stacked layer: ‖UᵀWV‖_F for three choices of r directions U and V.

    Attributes:
      in_change: U and V are the top singular directions of ΔW.
      in_weight: those of W itself, the largest value there is: √Σσ² over its top r.
      in_random: those of one draw of independent uniformly random subspaces.
      by_chance: the root mean square of the latter over all draws, r·‖W‖_F/√(in·out).
      change_norm: ‖ΔW‖_F.
      weight_norm: ‖W‖_F.
    """

    in_change: Float[Array, " layers"]
    in_weight: Float[Array, " layers"]
    in_random: Float[Array, " layers"]
    by_chance: Float[Array, " layers"]
    change_norm: Float[Array, " layers"]
    weight_norm: Float[Array, " layers"]

    @property
    def factor(self) -> Float[Array, " layers"]:
        """The amplification factor: ‖ΔW‖_F / ‖UᵀWV‖_F in ΔW's own directions."""
        return self.change_norm / self.in_change


def amplification(
    base: Float[Array, "layers inputs outputs"],
    change: Change,
    key: Key[Array, ""],
    rank: int | None = None,
) -> Amplification:
    """Measures W in the directions of ΔW, in its own, and in random ones.

    A large factor alone says little, for it is larger still where ΔW has nothing to do with W: look
    whether W is larger in ΔW's directions than by chance.

    Args:
      base: W.
      change: ΔW, from `decompose`.
      key: of the random directions.
      rank: how many directions; left out, as many as ΔW has.

    Raises:
      ValueError: more directions than ΔW has.
    """
    layers, fan_in, fan_out = base.shape
    most = change.values.shape[-1]
    rank = most if rank is None else rank
    if not 1 <= rank <= most:
        raise ValueError(f"rank {rank}: ΔW has {most} directions, and at least 1 is needed")
    keys = jax.random.split(key)
    random_in = random_directions(keys[0], layers, fan_in, rank)
    random_out = random_directions(keys[1], layers, fan_out, rank)
    return Amplification(
        in_change=projected_norm(base, change.left[..., :rank], change.right[..., :rank]),
        in_weight=largest_projected_norm(base, rank),
        in_random=projected_norm(base, random_in, random_out),
        by_chance=chance_projected_norm(base, rank, rank),
        change_norm=jnp.linalg.norm(change.values, axis=-1),
        weight_norm=jnp.linalg.norm(base, axis=(-2, -1)),
    )


def projected_norm(
    base: Float[Array, "layers inputs outputs"],
    left: Float[Array, "layers inputs p"],
    right: Float[Array, "layers outputs q"],
) -> Float[Array, " layers"]:
    """‖UᵀWV‖_F: how much of W maps between two subspaces.

    >>> projected_norm(jnp.diag(jnp.array([3.0, 1.0]))[None], jnp.eye(2)[None, :, :1],
    ...                jnp.eye(2)[None])
    Array([3.], dtype=float32)
    """
    with jax.default_matmul_precision("highest"):
        return jnp.linalg.norm(left.mT @ base @ right, axis=(-2, -1))


def largest_projected_norm(
    base: Float[Array, "*layers inputs outputs"], rank: int
) -> Float[Array, "*layers"]:
    """The largest ‖UᵀWV‖_F for r directions on each side: √Σσ² over W's top r singular values."""
    values = jnp.linalg.svd(base, compute_uv=False)
    return jnp.linalg.norm(values[..., :rank], axis=-1)


def chance_projected_norm(
    base: Float[Array, "*layers inputs outputs"], p: int, q: int
) -> Float[Array, "*layers"]:
    """The root mean square of ‖UᵀWV‖_F over independent uniformly random subspaces.

    E UUᵀ = (p/m)·I and E VVᵀ = (q/n)·I, so E‖UᵀWV‖²_F = E tr(UUᵀ W VVᵀ Wᵀ) = pq/(mn)·‖W‖²_F for
    W of m × n. For p = q = r and a square W of dimension d that is the r·‖W‖_F/d of table 7.

    >>> round(float(chance_projected_norm(61.95 * jnp.eye(1), 1, 1)), 2)
    61.95
    """
    m, n = base.shape[-2:]
    return math.sqrt(p * q / (m * n)) * jnp.linalg.norm(base, axis=(-2, -1))
