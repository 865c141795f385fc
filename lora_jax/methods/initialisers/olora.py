"""OLoRA: A·B starts at the leading part of a QR decomposition of W.

Büyükakyüz, "OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models", arXiv 2406.01775,
section 3.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from lora_jax.lifting import Weight
from lora_jax.methods.initialisers.matrices import as_factors, base_matrix
from lora_jax.methods.initialisers.rebased import Rebased


@dataclasses.dataclass(frozen=True, kw_only=True)
class OLoRA(Rebased):
    """LoRA from ``Wᵀ = Q·R`` (outputs long, as PEFT): B is Q's first columns, A is R's first rows.

    B starts orthonormal. As in PEFT, the start is not divided by the scale: ``s·Q_r·R_r`` is taken
    off.

    Attributes: as `LoRA`.
    """

    def start(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """``a = R[:r]ᵀ`` and ``b = Q[:, :r]ᵀ``."""
        del key
        q, r = jnp.linalg.qr(base_matrix(weight, "OLoRA").mT)
        a, b = r[..., : self.rank, :].mT, q[..., : self.rank].mT
        return as_factors(a, b, weight, self.dtype)
