"""Fused: ΔW of one part of a weight that a method adapts as a whole.

PEFT adapts GPT-2's `c_attn` as one matrix; here it is split into three. Where the blocks of a
method run across the parts (GraLoRA, LoKr), no method of the same kind makes the ΔW of one part,
but some columns of the ΔW of the whole are it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax import lax

from lora_jax.lifting import Delta, Factor, Method, Weight


@dataclasses.dataclass(frozen=True)
class Fused:
    """One of several equal parts, along the outputs, of a weight that is adapted as one.

    Each part holds the arrays of the whole. They stay alike as long as they are not trained, which
    is what reading an adapter and merging it need; to train, share them between the parts.

    Attributes:
      method: of the whole; one that does not look at the weight itself, as DoRA and HiRA do.
      part: which part this is, from 0.
      parts: how many there are.

    >>> from lora_jax.methods import GraLoRA
    >>> weight = Weight("q", (16, 16), "float32", (), (0,), (1,), uses=("dot_general",))
    >>> arrays = Fused(GraLoRA(rank=4), 0, 3).init(jax.random.key(0), weight)
    >>> arrays["b"].shape  # two blocks over 48 outputs
    (2, 4, 24)
    """

    method: Any
    part: int
    parts: int

    def __post_init__(self) -> None:
        if not isinstance(self.method, Method):
            raise ValueError(f"method must be a method, not {self.method!r}")
        if not 0 <= self.part < self.parts:
            raise ValueError(f"part {self.part} is none of {self.parts} parts, counted from 0")

    @property
    def dropout(self) -> float:
        """The rate of the method."""
        return float(self.method.dropout)

    @property
    def frozen(self) -> tuple[str, ...]:
        """What the method does not train."""
        return tuple(getattr(self.method, "frozen", ()))

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """The arrays of the whole."""
        return dict(self.method.init(key, self._whole(weight)))

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """The columns of the whole ΔW that are this part's."""
        axis = weight.outs[-1]
        size = weight.shape[axis]

        def cut(factor: Factor) -> Factor:
            if axis not in factor.axes:
                return factor
            at = factor.axes.index(axis)
            first = self.part * size
            own = lax.slice_in_dim(factor.array, first, first + size, axis=at)
            return Factor(own, factor.axes)

        return self.method.delta(arrays, self._whole(weight)).map_values(cut)

    def _whole(self, weight: Weight) -> Weight:
        axis = weight.outs[-1]
        sizes = list(weight.shape)
        sizes[axis] *= self.parts
        return dataclasses.replace(weight, shape=tuple(sizes), value=None)

    def __str__(self) -> str:
        return f"{self.method} of {self.parts} fused parts"
