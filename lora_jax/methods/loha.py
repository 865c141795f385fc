"""LoHa: ΔW = (α / r) · (A₁·B₁) ∘ (A₂·B₂), whose rank can be r².

Hyeon-Woo et al., "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated
Learning", arXiv 2108.06098, proposition 1; Yeh et al., LyCORIS, arXiv 2309.14859, section 3.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lora_jax.lifting import Delta, Factor, Weight
from lora_jax.methods.checks import check_alpha, check_dtype, check_rank, check_sides


@dataclasses.dataclass(frozen=True)
class LoHa:
    """The entrywise product of two low-rank matrices.

    ΔW is formed where it is used, one layer of a scan at a time, as in PEFT: an activation cannot
    pass through an entrywise product factor by factor.

    Attributes:
      rank: of each of the two matrices, at least 1.
      alpha: α; ΔW is scaled by α / r.
      dtype: of the factors; fp32 whatever the base's.
    """

    rank: int = 8
    alpha: float = 8.0
    _: dataclasses.KW_ONLY
    dtype: Any = jnp.float32

    dropout: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_rank(self.rank)
        check_alpha(self.alpha)
        check_dtype(self.dtype)

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """``a1``, ``a2 (*batch, *in, rank)`` and ``b1``, ``b2 (*batch, rank, *out)``.

        Uniform as in PEFT, U(±1/√in) for A₁ and U(±1/√r) for both B, with A₂ at zero.
        """
        check_sides(weight, "LoHa")
        batch = weight.sizes(weight.batch)
        a_shape = (*batch, *weight.sizes(weight.ins), self.rank)
        b_shape = (*batch, self.rank, *weight.sizes(weight.outs))
        keys = jax.random.split(key, 3)
        uniform = lambda key, shape, fan: jax.random.uniform(
            key, shape, self.dtype, -(fan**-0.5), fan**-0.5
        )
        return {
            "a1": uniform(keys[0], a_shape, weight.fan_in),
            "b1": uniform(keys[1], b_shape, self.rank),
            "a2": jnp.zeros(a_shape, self.dtype),
            "b2": uniform(keys[2], b_shape, self.rank),
        }

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """``ΔW = (α / r) · Σ_p a1[in, p] · b1[p, out] · Σ_q a2[in, q] · b2[q, out]``."""
        factors = [Factor(jnp.asarray(self.alpha / self.rank, float), ())]
        for i in "12":
            a_axes = (*weight.batch, *weight.ins, f"rank{i}")
            factors.append(Factor(arrays[f"a{i}"], a_axes))
            factors.append(Factor(arrays[f"b{i}"], (*weight.batch, f"rank{i}", *weight.outs)))
        return Delta(terms=(tuple(factors),))

    def __str__(self) -> str:
        return f"LoHa(rank={self.rank}, alpha={self.alpha:g})"
