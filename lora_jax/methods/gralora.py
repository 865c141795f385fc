"""GraLoRA: ΔW in k x k blocks, each with a low-rank pair of its own of rank r / k.

Jung et al., "GraLoRA: Granular Low-Rank Adaptation for Parameter-Efficient Fine-Tuning",
arXiv 2505.20355, section 3.2.
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
    check_linear,
    check_rank,
)


@dataclasses.dataclass(frozen=True)
class GraLoRA:
    """Block-wise LoRA: as many parameters as LoRA of the same rank, and k times its rank.

    Attributes:
      rank: r, a multiple of k.
      alpha: α; ΔW is scaled by α / (r + hybrid).
      k: blocks along each side; divides the inputs and the outputs of the weight.
      hybrid: rank of a plain LoRA beside the blocks; 0 for none.
      dropout: rate in [0, 1) on the input of ΔW, while training.
      dtype: of the factors; fp32 whatever the base's.

    >>> weight = Weight("w", (64, 32), "float32", (), (0,), (1,), uses=("dot_general",))
    >>> jax.tree.map(jnp.shape, GraLoRA(rank=8, k=2).init(jax.random.key(0), weight))
    {'a': (2, 32, 8), 'b': (2, 8, 16)}
    """

    rank: int = 32
    alpha: float = 64.0
    _: dataclasses.KW_ONLY
    k: int = 2
    hybrid: int = 0
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_rank(self.rank)
        check_rank(self.k, "k")
        check_alpha(self.alpha)
        check_dropout(self.dropout)
        check_dtype(self.dtype)
        if self.hybrid < 0:
            raise ValueError(f"hybrid must be a rank or 0, not {self.hybrid!r}")
        if self.rank % self.k:
            raise ValueError(f"rank {self.rank} is no multiple of k = {self.k}")

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """``a (*batch, k, in/k, r)`` by input block, ``b (*batch, k, r, out/k)`` by output block.

        With `hybrid` also ``ga (*batch, in, hybrid)`` and ``gb (*batch, hybrid, out)``. A is
        U(±1/√fan-in) and B zero. In A's last axis the output block varies slowest, in B's rank
        axis the input block.
        """
        check_linear(weight, "GraLoRA")
        for side in (weight.fan_in, weight.fan_out):
            if side % self.k:
                raise ValueError(f"k = {self.k} does not divide a side of {weight.path!r}: {side}")
        batch, k = weight.sizes(weight.batch), self.k
        keys = jax.random.split(key)
        a_shape = (*batch, k, weight.fan_in // k, self.rank)
        arrays = {
            "a": self._uniform(keys[0], a_shape),
            "b": jnp.zeros((*batch, k, self.rank, weight.fan_out // k), self.dtype),
        }
        if self.hybrid:
            arrays["ga"] = self._uniform(keys[1], (*batch, weight.fan_in, self.hybrid))
            arrays["gb"] = jnp.zeros((*batch, self.hybrid, weight.fan_out), self.dtype)
        return arrays

    def _uniform(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        bound = 1.0 / math.sqrt(shape[-2])
        return jax.random.uniform(key, shape, self.dtype, -bound, bound)

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """Block (i, j) is ``(α / (r + hybrid)) · Σ_s a[i, ·, (j, s)] · b[j, (i, s), ·]``.

        Written as one LoRA of rank k·r, over (i, j, s), whose factors are zero outside their
        blocks.
        """
        batch, k, r = weight.sizes(weight.batch), self.k, self.rank
        # One axis says which block an entry is in, and another which block it would serve.
        eye = jnp.eye(k, dtype=self.dtype)
        a = jnp.einsum("...ipR,iI->...ipIR", arrays["a"], eye)
        b = arrays["b"].reshape(*batch, k, k, r // k, weight.fan_out // k)
        b = jnp.einsum("...jiso,jJ->...ijsJo", b, eye)
        terms = [self._term(a, b, weight, k * r, "rank")]
        if self.hybrid:
            terms.append(self._term(arrays["ga"], arrays["gb"], weight, self.hybrid, "general"))
        return Delta(terms=tuple(terms))

    def _term(
        self, a: jax.Array, b: jax.Array, weight: Weight, rank: int, hidden: str
    ) -> tuple[Factor, ...]:
        batch = weight.sizes(weight.batch)
        a = a.reshape(*batch, *weight.sizes(weight.ins), rank)
        b = b.reshape(*batch, rank, *weight.sizes(weight.outs))
        return (
            Factor(a, (*weight.batch, *weight.ins, hidden)),
            Factor(b, (*weight.batch, hidden, *weight.outs)),
            Factor(jnp.asarray(self.alpha / (self.rank + self.hybrid), float), ()),
        )

    def __str__(self) -> str:
        return f"GraLoRA(rank={self.rank}, k={self.k})"
