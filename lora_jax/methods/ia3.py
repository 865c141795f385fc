"""IA³: W' = l · W, one learned scale for each output; in feed-forward layers for each input.

Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context
Learning", arXiv 2205.05638, section 3.3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lora_jax.lifting import Delta, Factor, Weight
from lora_jax.methods.checks import check_dtype, check_sides


@dataclasses.dataclass(frozen=True)
class IA3:
    """Learned scales of activations, as gains of the weights that make or take them.

    A scale of the outputs scales the bias of the same module too, if there is one, as in PEFT.

    Attributes:
      feedforward: scale the inputs of the weight instead of its outputs. Recommended are keys and
        values by their outputs and the second matrix of a perceptron by its inputs:
        ``targets={"k_proj": None, "v_proj": None, "fc2": IA3(feedforward=True)}``.
      dtype: of the scales; fp32 whatever the base's.

    >>> weight = Weight("w", (12, 64, 32), "float32", batch=(0,), ins=(1,), outs=(2,))
    >>> IA3().init(jax.random.key(0), weight)["l"].shape
    (12, 32)
    >>> IA3(feedforward=True).init(jax.random.key(0), weight)["l"].shape
    (12, 64)
    """

    _: dataclasses.KW_ONLY
    feedforward: bool = False
    dtype: Any = jnp.float32

    dropout: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_dtype(self.dtype)

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:  # noqa: ARG002
        """Ones ``l (*batch, *out)``, or ``(*batch, *in)`` without the window of a convolution."""
        check_sides(weight, "IA3")
        return {"l": jnp.ones(weight.sizes(self._axes(weight)), self.dtype)}

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """The gain ``l``."""
        return Delta(gain=(Factor(arrays["l"], self._axes(weight)),))

    def bias_delta(self, arrays: Mapping[str, Any], bias: Weight) -> Delta:
        """The same gain, where the outputs are scaled, of the bias of the module."""
        if self.feedforward:
            return Delta()
        return Delta(gain=(Factor(arrays["l"], tuple(range(len(bias.shape)))),))

    def _axes(self, weight: Weight) -> tuple[int, ...]:
        if not self.feedforward:
            return (*weight.batch, *weight.outs)
        return (*weight.batch, *(axis for axis in weight.ins if axis not in weight.windows))

    def __str__(self) -> str:
        return "IA3(feedforward)" if self.feedforward else "IA3"
