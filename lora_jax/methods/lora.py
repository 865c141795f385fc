"""LoRA: ΔW = scale · A·B, with A of shape (in, rank) and B of shape (rank, out).

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1.
rsLoRA: Kalajdzievski, arXiv 2312.03732.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from lora_jax.lifting import Delta, Factor, Weight


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation.

    A starts random and B at zero, so ΔW is zero at first. For a weight that is looked up (an
    embedding) A starts at zero and B random, as in PEFT and loralib: there A's rows are picked.

    Attributes:
      rank: r ≥ 1, at most the smaller side of the weight.
      alpha: α; ΔW is scaled by α / r.
      dropout: rate in [0, 1) on the input of ΔW, while training.
      rs: rank-stabilised scaling α / √r (rsLoRA).
      init_a: ``"kaiming"``, U(±1/√in) (Kaiming-uniform with a = √5, as PEFT and loralib), or
        ``"gaussian"``, N(0, 1/r²) (PEFT's option of that name).
      dtype: of the factors; fp32 whatever the base's.

    Raises:
      ValueError: for values outside these ranges; `init` for a rank the weight does not allow.

    >>> LoRA(rank=8, alpha=16).scale
    2.0
    >>> LoRA(rank=16, alpha=16, rs=True).scale
    4.0
    """

    rank: int = 8
    alpha: float = 16.0
    _: dataclasses.KW_ONLY
    dropout: float = 0.0
    rs: bool = False
    init_a: Literal["kaiming", "gaussian"] = "kaiming"
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise ValueError(f"rank must be an integer of at least 1, not {self.rank!r}")
        if not self.alpha > 0:
            raise ValueError(f"alpha must be positive, not {self.alpha!r}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout!r}")
        if self.init_a not in ("kaiming", "gaussian"):
            raise ValueError(f"init_a must be 'kaiming' or 'gaussian', not {self.init_a!r}")
        if not jnp.issubdtype(self.dtype, jnp.floating):
            raise ValueError(f"dtype must be a float type, not {self.dtype!r}")

    @property
    def scale(self) -> float:
        """α / r, or α / √r."""
        return self.alpha / (math.sqrt(self.rank) if self.rs else self.rank)

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """Factors ``a (*batch, *in, rank)`` and ``b (*batch, rank, *out)``."""
        self._check(weight)
        batch = weight.sizes(weight.batch)
        a_shape = (*batch, *weight.sizes(weight.ins), self.rank)
        b_shape = (*batch, self.rank, *weight.sizes(weight.outs))
        if weight.is_looked_up:
            return {
                "a": jnp.zeros(a_shape, self.dtype),
                "b": jax.random.normal(key, b_shape, self.dtype),
            }
        return {"a": self._init_a(key, a_shape, weight.fan_in), "b": jnp.zeros(b_shape, self.dtype)}

    def _init_a(self, key: jax.Array, shape: tuple[int, ...], fan_in: int) -> jax.Array:
        if self.init_a == "gaussian":
            return jax.random.normal(key, shape, self.dtype) / self.rank
        bound = 1.0 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, self.dtype, -bound, bound)

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """``ΔW = scale · Σ_rank a[…, rank] · b[rank, …]``."""
        a = Factor(arrays["a"], (*weight.batch, *weight.ins, "rank"))
        b = Factor(arrays["b"], (*weight.batch, "rank", *weight.outs))
        scale = Factor(jnp.asarray(self.scale, float), ())  # not rounded to the factors' dtype
        return Delta(terms=((a, b, scale),))

    def _check(self, weight: Weight) -> None:
        if not weight.ins or not weight.outs:
            raise ValueError(
                f"{weight.path!r} {weight.shape} has no input and output side for LoRA"
            )
        if self.rank > (largest := min(weight.fan_in, weight.fan_out)):
            raise ValueError(
                f"rank {self.rank} is larger than {weight.path!r} allows: its matrix is "
                f"{weight.fan_in} x {weight.fan_out}, so the rank is at most {largest}"
            )

    def __str__(self) -> str:
        kind = "rsLoRA" if self.rs else "LoRA"
        dropout = f", dropout={self.dropout:g}" if self.dropout else ""
        return f"{kind}(rank={self.rank}, alpha={self.alpha:g}{dropout})"
