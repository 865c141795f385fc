"""LoRA that starts away from zero, with its start taken off again: ΔW = s·(A·B − A₀·B₀).

PiSSA, OLoRA, CorDA and LoRA-GA start A and B at a part of W and train the rest as the base. Here
the base is never touched. The start A₀·B₀ is kept beside the factors, frozen, and ΔW is written

    ΔW = s · [A − A₀, A₀] · [B; B − B₀]

which is s·(A·B − A₀·B₀): exactly zero at the start, with the gradients of those methods, and a
plain LoRA of rank 2r on the untouched W (PEFT's `subtract_mutated_init`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lora_jax.lifting import Delta, Factor, Weight
from lora_jax.methods.lora import LoRA


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rebased(LoRA):
    """LoRA whose start is subtracted; the initialisers below say what the start is.

    With dropout the start is dropped with the rest, so that the model still starts as the base
    (PEFT drops it from A·B alone).

    Attributes: as `LoRA`.
    """

    frozen: ClassVar[tuple[str, ...]] = ("a0", "b0")

    def start(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """The first A and B."""
        raise NotImplementedError

    def plain_start(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """LoRA's own A and B, of the same shapes."""
        return super().init(key, weight)

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """``a, b`` at the start, and ``a0, b0``, the same, frozen."""
        self._check(weight)
        start = self.start(key, weight)
        return {**start, "a0": start["a"], "b0": start["b"]}

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """``ΔW = s·(A·B − A₀·B₀)``, as one product of rank 2r."""
        plain = super().delta({**arrays, **self.plain(arrays, weight)}, weight)
        return dataclasses.replace(plain, terms=tuple(map(_doubled_scale, plain.terms)))

    def plain(self, arrays: Mapping[str, Any], weight: Weight) -> dict[str, Any]:
        """The arrays of the plain LoRA of rank 2r that does the same at the same scale s."""
        a, b, a0, b0 = (arrays[name] for name in ("a", "b", "a0", "b0"))
        first = len(weight.batch)
        return {
            "a": jnp.concatenate([a - a0, a0], axis=-1),
            "b": jnp.concatenate([b, b - b0], axis=first),
        }

    def __str__(self) -> str:
        return super().__str__().replace("LoRA", type(self).__name__, 1)


def _doubled_scale(term: tuple[Factor, ...]) -> tuple[Factor, ...]:
    """A term of LoRA whose factors hold the rank twice: so must a scale for each rank."""
    a, b, *rest = term
    twice = [
        Factor(jnp.concatenate([f.array] * 2, axis=f.axes.index("rank")), f.axes)
        if "rank" in f.axes
        else f
        for f in rest
    ]
    return (a, b, *twice)
