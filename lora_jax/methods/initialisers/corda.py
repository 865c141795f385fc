"""CorDA: A·B starts at a part of W chosen by the covariance C of its inputs.

Yang et al., "CorDA: Context-Oriented Decomposition Adaptation of Large Language Models for
Task-Aware Parameter-Efficient Fine-tuning", arXiv 2406.05223, section 3.2.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax

from lora_jax.lifting import Weight
from lora_jax.methods.initialisers.gather import InputMoments
from lora_jax.methods.initialisers.matrices import (
    as_factors,
    balanced,
    base_matrix,
    refuse_ranks,
    scale_of,
    svd,
)
from lora_jax.methods.initialisers.rebased import Rebased

# As in PEFT: the inverse is taken once it is this good, with ever more of the identity added.
_DAMP, _INVERSE_ERROR = 0.01, 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorDA(Rebased):
    """LoRA from the decomposition ``W·C = U diag(σ) Vᵀ``, undone by C⁻¹.

    ``gather_inputs(lifted, params, batches, normalise=True)`` gathers what PEFT's does.

    Attributes:
      mode: ``"ipm"`` (instruction-previewed): the leading triples train, for tasks like the data;
        ``"kpm"`` (knowledge-preserved): the last triples train, and what the data asks of W stays.
      others: as `LoRA`.

    Raises:
      ValueError: another mode; `init` on a quantised base.
    """

    mode: Literal["ipm", "kpm"] = "ipm"
    starts_from: ClassVar[str] = "gather_inputs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("ipm", "kpm"):
            raise ValueError(f"mode must be 'ipm' or 'kpm', not {self.mode!r}")
        if self.mode == "kpm":
            refuse_ranks(self, "it trains the last triples, as many as the rank")

    def start(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """``a = C⁻¹ V √(σ/s)`` and ``b = √(σ/s) Uᵀ`` of the chosen triples."""
        matrix = base_matrix(weight, "CorDA")
        if weight.gathered is None:  # on shapes alone
            return self.plain_start(key, weight)
        covariance, inverse = _damped(_covariance(weight.gathered, weight))
        v, s, ut = svd(covariance @ matrix)
        part = slice(None, self.rank) if self.mode == "ipm" else slice(-self.rank, None)
        a, b = balanced(v[..., part], s[..., part], ut[..., part, :], scale_of(self, weight))
        return as_factors(inverse @ a, b, weight, self.dtype)


def _covariance(moments: InputMoments, weight: Weight) -> jax.Array:
    batch, size = weight.sizes(weight.batch), weight.fan_in
    return moments.second.reshape(*batch, size, size) / moments.batches


def _damped(covariance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """C plus enough of the identity to be inverted, and its inverse."""
    size = covariance.shape[-1]
    flat = covariance.reshape(-1, size, size)
    fixed, inverse = jax.vmap(_damped_one)(flat)
    return fixed.reshape(covariance.shape), inverse.reshape(covariance.shape)


def _damped_one(covariance: jax.Array) -> tuple[jax.Array, jax.Array]:
    eye = jnp.eye(covariance.shape[0], dtype=covariance.dtype)
    level = jnp.diagonal(covariance).mean()
    fixed = lambda damp: covariance + eye * level * damp

    def is_bad(damp: jax.Array) -> jax.Array:
        error = jnp.linalg.norm(fixed(damp) @ jnp.linalg.inv(fixed(damp)) - eye)
        return ~(error < _INVERSE_ERROR) & (damp < 1.0)

    damp = lax.while_loop(is_bad, lambda damp: 2 * damp, jnp.float32(_DAMP))
    return fixed(damp), jnp.linalg.inv(fixed(damp))
