"""BitFit: only biases train.

Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models", arXiv 2106.10199.
"""

from __future__ import annotations

import dataclasses

import jax

from lora_jax.lifting import Weight
from lora_jax.methods.full import Full


@dataclasses.dataclass(frozen=True)
class BitFit(Full):
    """Trains biases whole; with ``targets=lora.BIASES``, all of them.

    Beside another method: ``targets={"q_proj": None, lora.BIASES: BitFit()}`` is PEFT's
    ``bias="all"``.

    Attributes: as `Full`.
    """

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """Zeros ``d`` of the bias's shape."""
        if weight.has_roles:
            raise ValueError(f"{weight.path!r} is no bias: use Full to train it whole")
        return super().init(key, weight)
