"""Layer-norm tuning: only the scales and biases of normalisations train.

Zhao et al., "Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning",
arXiv 2312.11420.
"""

from __future__ import annotations

import dataclasses

import jax

from lora_jax.lifting import Weight
from lora_jax.methods.full import Full


@dataclasses.dataclass(frozen=True)
class LayerNormTuning(Full):
    """Trains norms whole; with ``targets=lora.NORMS``, all of them.

    Attributes: as `Full`.
    """

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """Zeros ``d`` of the norm's shape."""
        if weight.has_roles:
            raise ValueError(f"{weight.path!r} is no norm: use Full to train it whole")
        return super().init(key, weight)
