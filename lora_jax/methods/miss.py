"""MiSS: ΔW repeats one block of rows along the input, so inputs are summed before one product.

Kang and Yin, "MiSS: Revisiting the Trade-off in LoRA with an Efficient Shard-Sharing Structure",
arXiv 2409.15371, section 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax.lifting import Delta, Factor, Weight
from lora_jax.methods.checks import (
    check_dropout,
    check_dtype,
    check_linear,
    check_rank,
)


@dataclasses.dataclass(frozen=True)
class MiSS:
    """One learned matrix (rank, out), shared by all runs of `rank` inputs.

    This is PEFT's default form and its "mini" form; its "bat" form is left out, as its ΔW is made
    of products with W.

    Attributes:
      rank: rows of the block, at least 1 and at most the inputs.
      mini: columns of the block, a divisor of the outputs, repeated along them; None: all.
      dropout: rate in [0, 1) on the input of ΔW, while training.
      dtype: of the block; fp32 whatever the base's.

    >>> weight = Weight("w", (12, 64, 32), "float32", (0,), (1,), (2,), uses=("dot_general",))
    >>> MiSS(rank=16).init(jax.random.key(0), weight)["b"].shape
    (12, 16, 32)
    """

    rank: int = 64
    _: dataclasses.KW_ONLY
    mini: int | None = None
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_rank(self.rank)
        check_dropout(self.dropout)
        check_dtype(self.dtype)
        if self.mini is not None:
            check_rank(self.mini, "mini")

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:  # noqa: ARG002
        """Zeros ``b (*batch, rank, *out)``, or ``(*batch, rank, mini)``."""
        check_linear(weight, "MiSS")
        if self.rank > weight.fan_in:
            raise ValueError(f"rank {self.rank}: {weight.path!r} has {weight.fan_in} inputs")
        outs = weight.sizes(weight.outs)
        if self.mini is not None:
            if weight.fan_out % self.mini:
                raise ValueError(
                    f"mini = {self.mini} does not divide the {weight.fan_out} outputs "
                    f"of {weight.path!r}"
                )
            outs = (self.mini,)
        return {"b": jnp.zeros((*weight.sizes(weight.batch), self.rank, *outs), self.dtype)}

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """``ΔW[in, out] = b[in mod rank, out]``."""
        ins, outs = weight.sizes(weight.ins), weight.sizes(weight.outs)
        row = jnp.arange(weight.fan_in).reshape(ins) % self.rank
        share = Factor(jax.nn.one_hot(row, self.rank, dtype=self.dtype), (*weight.ins, "rank"))
        block = arrays["b"]
        if self.mini is not None:
            block = jnp.tile(block, weight.fan_out // self.mini)
            block = block.reshape(*weight.sizes(weight.batch), self.rank, *outs)
        return Delta(terms=((share, Factor(block, (*weight.batch, "rank", *weight.outs))),))

    def __str__(self) -> str:
        return f"MiSS(rank={self.rank})"
