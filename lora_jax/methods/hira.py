"""HiRA: ΔW = W ∘ (A·B), a low-rank change relative to each entry of the base.

Huang et al., "HiRA: Parameter-Efficient Hadamard High-Rank Adaptation for Large Language Models",
ICLR 2025, equation 4.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax.lifting import Delta, Factor, Weight, is_packed
from lora_jax.methods.checks import base_of, check_dropout, check_dtype, check_fits, check_rank


@dataclasses.dataclass(frozen=True)
class HiRA:
    """The base times a low-rank matrix, entry by entry: ΔW can have the full rank of W.

    ΔW is formed where it is used, one layer of a scan at a time, as in PEFT.

    Attributes:
      rank: r ≥ 1, at most the smaller side of the weight.
      dropout: rate in [0, 1) on the input of ΔW, while training.
      dtype: of the factors; fp32 whatever the base's.
    """

    rank: int = 32
    _: dataclasses.KW_ONLY
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_rank(self.rank)
        check_dropout(self.dropout)
        check_dtype(self.dtype)

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """LoRA's ``a (*batch, *in, rank)``, random, and ``b (*batch, rank, *out)``, at zero.

        For a weight that is looked up, A is at zero and B random, as in PEFT.
        """
        check_fits(self.rank, weight, "HiRA")
        _check_exact(weight.value, weight)
        batch = weight.sizes(weight.batch)
        a_shape = (*batch, *weight.sizes(weight.ins), self.rank)
        b_shape = (*batch, self.rank, *weight.sizes(weight.outs))
        if weight.is_looked_up:
            b = jax.random.normal(key, b_shape, self.dtype)
            return {"a": jnp.zeros(a_shape, self.dtype), "b": b}
        bound = 1.0 / math.sqrt(weight.fan_in)
        a = jax.random.uniform(key, a_shape, self.dtype, -bound, bound)
        return {"a": a, "b": jnp.zeros(b_shape, self.dtype)}

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """``ΔW[in, out] = W[in, out] · Σ_rank a[in, rank] · b[rank, out]``."""
        value = base_of(weight, "HiRA")
        _check_exact(value, weight)
        base = Factor(value, tuple(range(len(weight.shape))))
        a = Factor(arrays["a"], (*weight.batch, *weight.ins, "rank"))
        b = Factor(arrays["b"], (*weight.batch, "rank", *weight.outs))
        return Delta(terms=((a, b, base),))

    def __str__(self) -> str:
        return f"HiRA(rank={self.rank})"


def _check_exact(value: Any, weight: Weight) -> None:
    """Raises `ValueError` where the base is quantised."""
    if is_packed(value):
        raise ValueError(
            f"HiRA multiplies the entries of {weight.path!r}, which is quantised: leave it as it "
            "is with lora.quantize(…, keep=…), or use LoRA"
        )
