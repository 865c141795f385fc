"""Orthogonal start: A and B both away from zero, with A·B = 0 since they meet in no direction.

As PEFT's `init_lora_weights="orthogonal"`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from lora_jax.lifting import Weight
from lora_jax.methods.initialisers.matrices import as_factors, refuse_ranks
from lora_jax.methods.lora import LoRA


@dataclasses.dataclass(frozen=True, kw_only=True)
class Orthogonal(LoRA):
    """LoRA whose A and B start random in two orthogonal halves of the space of the rank.

    A's rows combine the odd rows of a random orthonormal matrix, B's columns the even ones, so
    A·B is zero to rounding while both receive gradients from the first step.

    Attributes: as `LoRA`; the rank is even.

    Raises:
      ValueError: an odd rank.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_ranks(self, "A and B meet in no direction only as a whole")
        if self.rank % 2:
            raise ValueError(f"Orthogonal needs an even rank, not {self.rank}")

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """``a = N(0, 1)·Q_odd / 10`` and ``b = Q_evenᵀ·N(0, 1) / 10``."""
        self._check(weight)
        batch, half = weight.sizes(weight.batch), self.rank // 2
        for_q, for_a, for_b = jax.random.split(key, 3)
        q = jnp.linalg.qr(jax.random.normal(for_q, (*batch, self.rank, self.rank))).Q
        a = jax.random.normal(for_a, (*batch, weight.fan_in, half)) @ q[..., 0::2, :]
        b = q[..., 1::2, :].mT @ jax.random.normal(for_b, (*batch, half, weight.fan_out))
        return as_factors(a / 10.0, b / 10.0, weight, self.dtype)

    def __str__(self) -> str:
        return super().__str__().replace("LoRA", "Orthogonal", 1)
