"""PiSSA: A·B starts at the principal part of W.

Meng et al., "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language
Models", arXiv 2404.02948, equations 2 to 4; section 4 for the randomised decomposition.
"""

from __future__ import annotations

import dataclasses

import jax

from lora_jax.lifting import Weight
from lora_jax.methods.initialisers.matrices import (
    as_factors,
    balanced,
    base_matrix,
    randomised_svd,
    scale_of,
    svd,
)
from lora_jax.methods.initialisers.rebased import Rebased


@dataclasses.dataclass(frozen=True, kw_only=True)
class PiSSA(Rebased):
    """LoRA from the leading singular triples of W: ``s·A·B = U_r diag(σ_r) V_rᵀ`` at first.

    Attributes:
      iterations: None for an exact decomposition; else that of a randomised one after so many
        subspace iterations (PEFT's ``pissa_niter_N``), far quicker for large weights.
      others: as `LoRA`.

    Raises:
      ValueError: iterations below zero; `init` on a quantised base.
    """

    iterations: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations is not None and self.iterations < 0:
            raise ValueError(f"iterations must be at least 0 or None, not {self.iterations!r}")

    def start(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """``a = U √(σ/s)`` and ``b = √(σ/s) Vᵀ`` of the leading singular triples."""
        matrix, r = base_matrix(weight, "PiSSA"), self.rank
        if self.iterations is None:
            u, s, vt = svd(matrix)
        else:
            u, s, vt = randomised_svd(key, matrix, r, self.iterations)
        a, b = balanced(u[..., :r], s[..., :r], vt[..., :r, :], scale_of(self, weight))
        return as_factors(a, b, weight, self.dtype)
