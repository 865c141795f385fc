"""LoRA-GA: A and B start where the first step follows that of full fine-tuning.

Wang et al., "LoRA-GA: Low-Rank Adaptation with Gradient Approximation", arXiv 2407.05000,
section 3.2 and theorem 3.2 (stable scaling).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from lora_jax.lifting import Weight
from lora_jax.methods.initialisers.matrices import (
    as_factors,
    base_matrix,
    check_rank,
    matrix_of,
    randomised_svd,
    refuse_ranks,
    svd,
)
from lora_jax.methods.initialisers.rebased import Rebased

DIRECTIONS = ("ArB2r", "A2rBr", "ArBr", "random")
SCALES = ("stable", "weight_svd", "gd_scale", "unit")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAGA(Rebased):
    """LoRA from 2r singular triples of the gradient of the loss at W.

    ``factors = lifted.init(key, params, gather_gradients(lifted, params, batches, loss))``.

    Attributes:
      direction: which triples A and B take: ``"ArB2r"`` A the first r and B the next; ``"A2rBr"``
        the other way; ``"ArBr"`` A the odd and B the even ones; ``"random"`` both the same r of 2r.
      scaling: ``"stable"``: B times out^¼ / √γ; ``"weight_svd"``: B as large as W's largest
        singular value; ``"gd_scale"``: both divided by s; ``"unit"``: as they are. B holds the
        singular values.
      gamma: γ of the stable scaling.
      iterations: None for an exact decomposition, else that of a randomised one (PEFT takes 4).
      others: as `LoRA`; twice the rank is at most the smaller side.

    Raises:
      ValueError: another direction or scaling, gamma or iterations out of range; `init` on a
        quantised base.
    """

    direction: Literal["ArB2r", "A2rBr", "ArBr", "random"] = "ArB2r"
    scaling: Literal["stable", "weight_svd", "gd_scale", "unit"] = "stable"
    gamma: float = 16.0
    iterations: int | None = None
    starts_from: ClassVar[str] = "gather_gradients"

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_ranks(self, "A and B take triples by their place in twice the rank")
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {DIRECTIONS}, not {self.direction!r}")
        if self.scaling not in SCALES:
            raise ValueError(f"scaling must be one of {SCALES}, not {self.scaling!r}")
        if not self.gamma > 0:
            raise ValueError(f"gamma must be positive, not {self.gamma!r}")
        if self.iterations is not None and self.iterations < 0:
            raise ValueError(f"iterations must be at least 0 or None, not {self.iterations!r}")

    def start(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """``a``: directions of the inputs; ``b``: directions of the outputs times their σ."""
        matrix = base_matrix(weight, "LoRA-GA")
        most = min(weight.fan_in, weight.fan_out)
        check_rank(self.rank, weight, most // 2, "LoRA-GA")
        if weight.gathered is None:  # on shapes alone
            return self.plain_start(key, weight)
        for_svd, for_choice = jax.random.split(key)
        gradient = matrix_of(weight.gathered, weight)
        if self.iterations is None:
            u, s, vt = svd(gradient)
        else:
            u, s, vt = randomised_svd(for_svd, gradient, min(4 * self.rank, most), self.iterations)
        for_a, for_b = self._choice(for_choice)
        a, b = u[..., for_a], s[..., for_b, None] * vt[..., for_b, :]
        a, b = self._scaled(a, b, s[..., for_b], matrix, weight)
        return as_factors(a, b, weight, self.dtype)

    def _choice(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Which triples A and B take."""
        r = self.rank
        first, second = jnp.arange(r), jnp.arange(r, 2 * r)
        if self.direction == "ArBr":
            return 2 * first + 1, 2 * first
        if self.direction == "random":
            picked = jax.random.permutation(key, 2 * r)[:r]
            return picked, picked
        return (first, second) if self.direction == "ArB2r" else (second, first)

    def _scaled(
        self, a: jax.Array, b: jax.Array, s: jax.Array, matrix: jax.Array, weight: Weight
    ) -> tuple[jax.Array, jax.Array]:
        if self.scaling == "stable":
            return a, b * (weight.fan_out**0.25 / self.gamma**0.5)
        if self.scaling == "weight_svd":
            largest = jnp.linalg.norm(matrix, ord=2, axis=(-2, -1))
            ratio = jnp.where(s[..., 0] > 0, largest / s[..., 0], 1.0)
            return a, b * ratio[..., None, None]
        if self.scaling == "gd_scale":
            return a / self.scale, b / self.scale
        return a, b
