"""DoRA: W' = m · (W + ΔW) / ‖W + ΔW‖, magnitude and direction learned apart.

Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv 2402.09353, equations 5 and 11.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax import lax

from lora_jax.lifting import Delta, Factor, Weight, adapted_norm
from lora_jax.methods.checks import base_of
from lora_jax.methods.lora import LoRA


@dataclasses.dataclass(frozen=True)
class DoRA(LoRA):
    """LoRA with a learned magnitude for each output.

    The norm runs over the input axes. Its gradient is stopped, as in section 4.3 of the paper and
    in PEFT. With B at zero and m at ‖W‖ the model starts as the base.

    Attributes: as `LoRA`.
    """

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """LoRA's factors, and ``m (*batch, *out)``, the norms of W."""
        magnitude = adapted_norm(_base(weight), (), (*weight.batch, *weight.outs))
        return {**super().init(key, weight), "m": magnitude.astype(self.dtype)}

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """LoRA's ΔW, and the gain ``m / ‖W + ΔW‖`` of the whole weight."""
        low_rank = super().delta(arrays, weight)
        kept = (*weight.batch, *weight.outs)
        norm = lax.stop_gradient(adapted_norm(_base(weight), low_rank.terms, kept))
        gain = Factor(arrays["m"] / norm, kept)
        return dataclasses.replace(low_rank, gain=(gain,))

    def __str__(self) -> str:
        return super().__str__().replace("LoRA", "DoRA", 1)


def _base(weight: Weight) -> Any:
    return base_of(weight, "DoRA")
