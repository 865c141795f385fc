"""LoKr: ΔW = (α / r) · W₁ ⊗ W₂, a Kronecker product of a small and a low-rank matrix.

Yeh et al., "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation",
arXiv 2309.14859, section 3.3; Edalati et al., "KronA", arXiv 2212.10650.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lora_jax.lifting import Delta, Factor, Weight
from lora_jax.methods.checks import check_alpha, check_dtype, check_rank, check_sides


@dataclasses.dataclass(frozen=True)
class LoKr:
    """A Kronecker product; the input m·n and the output l·k are split as evenly as may be.

    x·ΔW takes x apart into its m and n: ΔW is not formed, but for sides of several axes.

    Attributes:
      rank: of W₂ (and of W₁ if both are decomposed); from half the larger side of W₂ on, W₂ is
        learned whole.
      alpha: α; ΔW is scaled by α / r.
      decompose_both: decompose W₁ too, where the rank is below half its larger side.
      factor: what the smaller part of a split should be; -1 for the nearest to the root.
      window: how many consecutive inputs are never split apart: the pixels of a channel, where a
        convolution over patches is written as a matrix product.
      dtype: of the factors; fp32 whatever the base's.

    >>> weight = Weight("w", (64, 128), "float32", batch=(), ins=(0,), outs=(1,))
    >>> jax.tree.map(jnp.shape, LoKr(rank=2).init(jax.random.key(0), weight))
    {'w1': (8, 8), 'w2_a': (2, 16), 'w2_b': (8, 2)}
    """

    rank: int = 8
    alpha: float = 8.0
    _: dataclasses.KW_ONLY
    decompose_both: bool = False
    factor: int = -1
    window: int = 1
    dtype: Any = jnp.float32

    dropout: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_rank(self.rank)
        check_alpha(self.alpha)
        check_dtype(self.dtype)
        if self.factor != -1 and self.factor < 1:
            raise ValueError(f"factor must be -1 or at least 1, not {self.factor!r}")
        check_rank(self.window, "window")

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """``w1 (m, l)`` or ``w1_a (r, l), w1_b (m, r)``; ``w2 (*window, n, k)`` or its two parts.

        These are PEFT's arrays transposed, after the batch axes. W₁, or w1_a, starts at zero, the
        others at U(±1/√fan-in).
        """
        check_sides(weight, "LoKr")
        shapes = self._shapes(weight)
        batch = weight.sizes(weight.batch)
        arrays = {}
        for name, one in zip(shapes, jax.random.split(key, len(shapes)), strict=True):
            bound = 1 / math.sqrt(math.prod(shapes[name][:-1]))
            uniform = jax.random.uniform(one, (*batch, *shapes[name]), self.dtype, -bound, bound)
            arrays[name] = uniform * (name not in ("w1", "w1_a"))
        return arrays

    def _shapes(self, weight: Weight) -> dict[str, tuple[int, ...]]:
        (m, n), (out, k) = self._splits(weight)
        window = weight.sizes(weight.windows)
        r = self.rank
        if self.decompose_both and r < max(out, m) / 2:
            first = {"w1_a": (r, out), "w1_b": (m, r)}
        else:
            first = {"w1": (m, out)}
        size = n * self.window
        if r < max(k, n) / 2:
            return {**first, "w2_a": (r, k), "w2_b": (*window, size, r)}
        return {**first, "w2": (*window, size, k)}

    def _splits(self, weight: Weight) -> tuple[tuple[int, int], tuple[int, int]]:
        inputs = math.prod(weight.sizes(_channels(weight)))
        if inputs % self.window:
            raise ValueError(
                f"window = {self.window} does not divide the {inputs} inputs of {weight.path!r}"
            )
        channels = split(inputs // self.window, self.factor)
        return channels, split(weight.fan_out, self.factor)

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """``ΔW[(m, n), (l, k)] = (α / r) · w1[m, l] · w2[n, k]``.

        Two factors of zeros and ones for each side say which m and n, l and k an axis stands for;
        where the side is one axis, products split it.
        """
        (_, n), (_, k) = self._splits(weight)
        batch, windows = weight.batch, weight.windows
        axes = {
            "w1": (*batch, "m", "l"),
            "w1_a": (*batch, "r1", "l"),
            "w1_b": (*batch, "m", "r1"),
            "w2": (*batch, *windows, "n", "k"),
            "w2_a": (*batch, "r2", "k"),
            "w2_b": (*batch, *windows, "n", "r2"),
        }
        term = [Factor(jnp.asarray(self.alpha / self.rank, float), ())]
        term += [Factor(array, axes[name]) for name, array in arrays.items()]
        term += self._indicators(weight, _channels(weight), n * self.window, ("m", "n"))
        term += self._indicators(weight, weight.outs, k, ("l", "k"))
        return Delta(terms=(tuple(term),))

    def _indicators(
        self, weight: Weight, side: tuple[int, ...], size: int, names: tuple[str, str]
    ) -> list[Factor]:
        sizes = weight.sizes(side)
        index = jnp.arange(math.prod(sizes)).reshape(sizes)
        parts = (index // size, index.size // size), (index % size, size)
        strides = (size, 1) if len(side) == 1 else (None, None)
        return [
            Factor(jax.nn.one_hot(part, count, dtype=self.dtype), (*side, name), stride)
            for (part, count), name, stride in zip(parts, names, strides, strict=True)
        ]

    def __str__(self) -> str:
        return f"LoKr(rank={self.rank}, alpha={self.alpha:g})"


def _channels(weight: Weight) -> tuple[int, ...]:
    return tuple(axis for axis in weight.ins if axis not in weight.windows)


def split(dimension: int, factor: int = -1) -> tuple[int, int]:
    """Two numbers, the smaller first, whose product is the dimension (as LyCORIS splits it).

    Args:
      dimension: at least 1.
      factor: taken as the first number if it divides the dimension, else the most that the smaller
        may be; -1 for no bound.

    >>> split(128), split(127), split(128, 4), split(250, 7)
    ((8, 16), (1, 127), (4, 32), (5, 50))
    """
    if factor > 0 and dimension % factor == 0:
        return factor, dimension // factor
    most = dimension if factor == -1 else factor
    small = max(
        d for d in range(1, math.isqrt(dimension) + 1) if dimension % d == 0 and d <= max(most, 1)
    )
    return small, dimension // small
