"""AdaLoRA: ΔW = A·Λ·B like a singular value decomposition, and ranks that go where they matter.

Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning",
arXiv 2303.10512: the form is equation 3, the penalty equation 4. The ranks are allocated in
`rank_allocation`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax.lifting import Delta, Factor, Weight
from lora_jax.methods.checks import (
    check_alpha,
    check_dropout,
    check_dtype,
    check_fits,
    check_rank,
)

Factors = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class AdaLoRA:
    """LoRA with a learned value for each rank, which allocation sets to zero where it is low.

    Train with `orthogonality(factors)` added to the loss, and call `allocate` after each update.

    Attributes:
      rank: the rank at the start, at least 1.
      alpha: α; ΔW is scaled by α / r.
      dropout: rate in [0, 1) on the input of ΔW, while training.
      dtype: of the factors; fp32 whatever the base's.
    """

    rank: int = 12
    alpha: float = 8.0
    _: dataclasses.KW_ONLY
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_rank(self.rank)
        check_alpha(self.alpha)
        check_dropout(self.dropout)
        check_dtype(self.dtype)

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """``a (*batch, *in, r)``, ``b (*batch, r, *out)``: N(0, 0.02²); ``e (*batch, r)``: 0."""
        check_fits(self.rank, weight, "AdaLoRA")
        batch = weight.sizes(weight.batch)
        for_a, for_b = jax.random.split(key)
        normal = lambda key, *shape: 0.02 * jax.random.normal(key, (*batch, *shape), self.dtype)
        return {
            "a": normal(for_a, *weight.sizes(weight.ins), self.rank),
            "e": jnp.zeros((*batch, self.rank), self.dtype),
            "b": normal(for_b, self.rank, *weight.sizes(weight.outs)),
        }

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """``ΔW = (α / r) · Σ_rank a[in, rank] · e[rank] · b[rank, out]``."""
        a = Factor(arrays["a"], (*weight.batch, *weight.ins, "rank"))
        e = Factor(arrays["e"], (*weight.batch, "rank"))
        b = Factor(arrays["b"], (*weight.batch, "rank", *weight.outs))
        scale = self.alpha / (self.rank + 1e-5)  # as in PEFT, where the rank may be zero
        return Delta(terms=((a, e, b, Factor(jnp.asarray(scale, float), ())),))

    def __str__(self) -> str:
        return f"AdaLoRA(rank={self.rank}, alpha={self.alpha:g})"


def orthogonality(factors: Factors) -> jax.Array:
    """How far A and B are from orthogonal: the mean of ``‖AᵀA - 1‖`` and ``‖BBᵀ - 1‖``.

    Added to the loss with a weight (PEFT: 0.5), for each layer of a stack apart.

    Args:
      factors: of a lifted model; those of other methods are passed over.

    Returns:
      A scalar of at least 0.

    Raises:
      ValueError: none of the factors are AdaLoRA's.

    >>> factors = {"w": {"a": jnp.eye(4)[:, :2], "e": jnp.ones(2), "b": 2 * jnp.eye(2, 6)}}
    >>> round(float(orthogonality(factors)), 3)  # of B: ‖4 - 1‖ on a diagonal of two
    2.121
    """
    norms = []
    for arrays in of_adalora(factors).values():
        batch, rank = arrays["e"].shape[:-1], arrays["e"].shape[-1]
        a = arrays["a"].reshape(math.prod(batch), -1, rank)
        b = arrays["b"].reshape(math.prod(batch), rank, -1)
        for gram in (jnp.einsum("lir,lis->lrs", a, a), jnp.einsum("lro,lso->lrs", b, b)):
            norms.append(jnp.linalg.norm(gram - jnp.eye(rank), axis=(1, 2)))
    return jnp.concatenate(norms).mean()


def of_adalora(factors: Factors) -> Factors:
    """The factors that are AdaLoRA's.

    Raises:
      ValueError: there are none.
    """
    own = {path: arrays for path, arrays in factors.items() if set(arrays) == {"a", "e", "b"}}
    if not own:
        raise ValueError(f"none of the factors {sorted(factors)} are AdaLoRA's: a, e, b")
    return own
