"""VeRA: ΔW = Λ_b·B·Λ_d·A with random A and B that never train, and two learned vectors.

Kopiczko et al., "VeRA: Vector-based Random Matrix Adaptation", arXiv 2310.11454, equation 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lora_jax.lifting import Delta, Factor, Weight
from lora_jax.methods.checks import check_dropout, check_dtype, check_linear, check_rank


@dataclasses.dataclass(frozen=True)
class VeRA:
    """Learns a scale for each rank and each output of a fixed random product.

    All layers of a stack share one A and one B, and weights of one shape have equal ones. (PEFT
    cuts the A and B of every weight out of one large pair.)

    Attributes:
      rank: of the random projections, at least 1; far larger than LoRA's, as it costs little.
      d_initial: of the scales of the ranks; the scales of the outputs start at zero.
      dropout: rate in [0, 1) on the input of ΔW, while training.
      seed: of the projections.
      dtype: of the arrays; fp32 whatever the base's.

    >>> weight = Weight("w", (12, 64, 32), "float32", (0,), (1,), (2,), uses=("dot_general",))
    >>> jax.tree.map(jnp.shape, VeRA(rank=256).init(jax.random.key(0), weight))
    {'a': (64, 256), 'b': (256, 32), 'd': (12, 256), 'g': (12, 32)}
    """

    rank: int = 256
    _: dataclasses.KW_ONLY
    d_initial: float = 0.1
    dropout: float = 0.0
    seed: int = 0
    dtype: Any = jnp.float32

    frozen: ClassVar[tuple[str, ...]] = ("a", "b")

    def __post_init__(self) -> None:
        check_rank(self.rank)
        check_dropout(self.dropout)
        check_dtype(self.dtype)

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:  # noqa: ARG002
        """``a (*in, rank)``, ``b (rank, *out)`` fixed; ``d (*batch, rank)``, ``g (*batch, *out)``.

        A and B are Kaiming-uniform: U(±√(6 / in)) and U(±√(6 / rank)).
        """
        check_linear(weight, "VeRA")
        for_a, for_b = jax.random.split(jax.random.key(self.seed))
        batch, outs = weight.sizes(weight.batch), weight.sizes(weight.outs)
        a_shape, b_shape = (*weight.sizes(weight.ins), self.rank), (self.rank, *outs)
        a_bound, b_bound = (6 / weight.fan_in) ** 0.5, (6 / self.rank) ** 0.5
        return {
            "a": jax.random.uniform(for_a, a_shape, self.dtype, -a_bound, a_bound),
            "b": jax.random.uniform(for_b, b_shape, self.dtype, -b_bound, b_bound),
            "d": jnp.full((*batch, self.rank), self.d_initial, self.dtype),
            "g": jnp.zeros((*batch, *outs), self.dtype),
        }

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """``ΔW = Σ_rank a[in, rank] · d[rank] · b[rank, out] · g[out]``."""
        a = Factor(arrays["a"], (*weight.ins, "rank"))
        b = Factor(arrays["b"], ("rank", *weight.outs))
        d = Factor(arrays["d"], (*weight.batch, "rank"))
        g = Factor(arrays["g"], (*weight.batch, *weight.outs))
        return Delta(terms=((a, d, b, g),))

    def __str__(self) -> str:
        return f"VeRA(rank={self.rank})"
