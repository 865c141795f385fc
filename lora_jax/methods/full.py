"""Full: ΔW itself is learned, entry by entry.

What PEFT calls `modules_to_save`: a head, a norm or an embedding that is trained whole beside
low-rank updates of the rest. The base stays as it is, so the update can be stored, stacked and
merged like any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lora_jax.lifting import Delta, Factor, Weight


@dataclasses.dataclass(frozen=True)
class Full:
    """Trains a whole array; fits biases and scales of norms as well as matrices.

    Attributes:
      dtype: of ΔW; fp32 whatever the base's.

    >>> weight = Weight("norm/scale", (64,), "float32", batch=(), ins=(), outs=(0,))
    >>> jax.tree.map(jnp.shape, Full().init(jax.random.key(0), weight))
    {'d': (64,)}
    """

    _: dataclasses.KW_ONLY
    dtype: Any = jnp.float32

    elementwise: ClassVar[bool] = True
    dropout: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not jnp.issubdtype(self.dtype, jnp.floating):
            raise ValueError(f"dtype must be a float type, not {self.dtype!r}")

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:  # noqa: ARG002
        """Zeros ``d`` of the weight's shape."""
        return {"d": jnp.zeros(weight.shape, self.dtype)}

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """``ΔW = d``."""
        return Delta(terms=((Factor(arrays["d"], tuple(range(len(weight.shape)))),),))

    def __str__(self) -> str:
        return type(self).__name__
