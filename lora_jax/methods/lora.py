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
import numpy as np

from lora_jax.lifting import Delta, Factor, Weight
from lora_jax.methods.checks import (
    check_alpha,
    check_dropout,
    check_dtype,
    check_fits,
    check_rank,
)


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
      ranks: a rank for each layer of a stack, 0 for none; `rank` is then the largest of them.
      alphas: an α for each layer of a stack; by default `alpha` for all.
      dtype: of the factors; fp32 whatever the base's.

    Raises:
      ValueError: for values outside these ranges; `init` for a rank the weight does not allow, or
        for as many `ranks` as the stack has no layers.

    >>> LoRA(rank=8, alpha=16).scale
    2.0
    >>> LoRA(rank=16, alpha=16, rs=True).scale
    4.0
    >>> LoRA(ranks=(8, 8, 0, 4)).rank
    8
    """

    rank: int = 8
    alpha: float = 16.0
    _: dataclasses.KW_ONLY
    dropout: float = 0.0
    rs: bool = False
    init_a: Literal["kaiming", "gaussian"] = "kaiming"
    ranks: tuple[int, ...] | None = None
    alphas: tuple[float, ...] | None = None
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        self._check_layers()
        check_rank(self.rank)
        check_alpha(self.alpha)
        check_dropout(self.dropout)
        check_dtype(self.dtype)
        if self.init_a not in ("kaiming", "gaussian"):
            raise ValueError(f"init_a must be 'kaiming' or 'gaussian', not {self.init_a!r}")

    def _check_layers(self) -> None:
        if self.ranks is not None:
            object.__setattr__(self, "ranks", tuple(self.ranks))
            for rank in self.ranks:
                if rank != 0:
                    check_rank(rank, "a rank of ranks")
            object.__setattr__(self, "rank", max(self.ranks, default=0))
        if self.alphas is not None:
            object.__setattr__(self, "alphas", tuple(self.alphas))
            for alpha in self.alphas:
                check_alpha(alpha)
            if self.ranks is not None and len(self.ranks) != len(self.alphas):
                raise ValueError(f"{len(self.ranks)} ranks, but {len(self.alphas)} alphas")

    @property
    def scale(self) -> float:
        """α / r, or α / √r."""
        return self._scale(self.alpha, self.rank)

    def _scale(self, alpha: float, rank: int) -> float:
        return alpha / (math.sqrt(rank) if self.rs else rank)

    def layer_scales(self, layers: int) -> np.ndarray | None:
        """The scale of each rank of each layer [layers, rank], zero beyond a layer's own rank.

        None where all layers are alike.
        """
        if self.ranks is None and self.alphas is None:
            return None
        ranks = self.ranks or (self.rank,) * layers
        alphas = self.alphas or (self.alpha,) * layers
        scales = np.zeros((layers, self.rank))
        for row, rank, alpha in zip(scales, ranks, alphas, strict=True):
            if rank:
                row[:rank] = self._scale(alpha, rank)
        return scales

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
        """``ΔW = scale · Σ_rank a[…, rank] · b[rank, …]``.

        An array `scale` among the arrays, without axes or ``(layers, rank)``, is used instead of
        the method's own: so adapters of different scales run in one program.
        """
        a = Factor(arrays["a"], (*weight.batch, *weight.ins, "rank"))
        b = Factor(arrays["b"], (*weight.batch, "rank", *weight.outs))
        own = arrays.get("scale")
        scale = self._scale_factor(weight) if own is None else _as_scale(own, weight)
        return Delta(terms=((a, b, scale),))

    def _scale_factor(self, weight: Weight) -> Factor:
        """The scale, not rounded to the factors' dtype; over layers and ranks where they differ."""
        layers = weight.shape[weight.batch[0]] if weight.batch else 0
        scales = self.layer_scales(layers)
        if scales is None:
            return Factor(jnp.asarray(self.scale, float), ())
        return _as_scale(jnp.asarray(scales, float), weight)

    def _check(self, weight: Weight) -> None:
        check_fits(self.rank, weight, "LoRA")
        for name, given in (("ranks", self.ranks), ("alphas", self.alphas)):
            layers = weight.shape[weight.batch[0]] if weight.batch else 0
            if given is not None and len(given) != layers:
                raise ValueError(
                    f"{len(given)} {name} were given, but {weight.path!r} is a stack of {layers}"
                )

    def __str__(self) -> str:
        kind = "rsLoRA" if self.rs else "LoRA"
        rank = f"rank={self.rank}" if self.ranks is None else f"ranks={self.ranks}"
        alpha = f"alpha={self.alpha:g}" if self.alphas is None else f"alphas={self.alphas}"
        dropout = f", dropout={self.dropout:g}" if self.dropout else ""
        return f"{kind}({rank}, {alpha}{dropout})"


def _as_scale(array: Any, weight: Weight) -> Factor:
    return Factor(array, (weight.batch[0], "rank") if array.ndim else ())
