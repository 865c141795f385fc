"""EVA: A starts at the directions in which a weight's inputs vary most.

Paischer et al., "Parameter Efficient Fine-tuning via Explained Variance Adaptation",
arXiv 2410.07170, sections 3.2 and 3.3.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from lora_jax.lifting import Weight
from lora_jax.methods.initialisers.gather import InputMoments
from lora_jax.methods.initialisers.matrices import as_factors
from lora_jax.methods.lora import LoRA


@dataclasses.dataclass(frozen=True, kw_only=True)
class EVA(LoRA):
    """LoRA whose A starts at the principal components of the weight's inputs, and B at zero.

    ``factors = lifted.init(key, params, gather_inputs(lifted, params, batches))``. To give each
    weight the rank its inputs deserve, see `redistribute_ranks`.

    Attributes:
      whiten: divide each component by the root of its singular value (PEFT's option).
      others: as `LoRA`.
    """

    whiten: bool = False
    starts_from: ClassVar[str] = "gather_inputs"

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """``a``: the leading components, signs free; ``b = 0``."""
        plain = super().init(key, weight)
        if weight.gathered is None:  # on shapes alone
            return plain
        values, vectors, rows = components(weight.gathered, weight)
        a = vectors[..., : self.rank]
        if self.whiten:
            singular = jnp.sqrt(jnp.maximum(values * rows[..., None], 0.0))[..., : self.rank]
            a = a / jnp.sqrt(singular)[..., None, :]
        b = jnp.zeros((*a.shape[:-2], self.rank, weight.fan_out))
        return as_factors(a, b, weight, self.dtype)

    def __str__(self) -> str:
        return super().__str__().replace("LoRA", "EVA", 1)


def components(moments: InputMoments, weight: Weight) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The principal components of a weight's inputs about their mean.

    Returns:
      Variances, largest first, ``(*batch, in)``; components as columns ``(*batch, in, in)``; and
      the number of rows ``(*batch)``.
    """
    batch, size = weight.sizes(weight.batch), weight.fan_in
    rows = moments.rows
    mean = moments.first.reshape(*batch, size) / rows[..., None]
    second = moments.second.reshape(*batch, size, size) / rows[..., None, None]
    values, vectors = jnp.linalg.eigh(second - mean[..., :, None] * mean[..., None, :])
    return values[..., ::-1], vectors[..., ::-1], rows


def explained(moments: InputMoments, weight: Weight) -> jax.Array:
    """The share of the inputs' variance along each component, largest first, ``(*batch, in)``."""
    values, _, _ = components(moments, weight)
    return values / values.sum(axis=-1, keepdims=True)
