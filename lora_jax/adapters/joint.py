"""One method that stands for those of many adapters, which share a program at one weight.

What differs between the adapters becomes arrays: their scales, whether a weight is adapted at all,
and the share of inputs that dropout keeps. Smaller ranks are padded with zeros. A rank of zeros,
A and B both, has gradients of exactly zero, and so it stays at zero under any optimiser whose
update of an array entry depends on the gradients of that entry, and whose decay pulls to zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.lifting import Delta, Factor, Method, Weight, is_elementwise
from lora_jax.lifting.site import frozen_arrays
from lora_jax.methods import LoRA
from lora_jax.methods.dora import DoRA
from lora_jax.methods.initialisers import Rebased

# Methods that differ in rank, scale and start alone share a program.
_FAMILIES = ((LoRA.delta, Rebased.delta), (DoRA.delta,))


@dataclasses.dataclass(frozen=True)
class Joint:
    """The method of many adapters at one weight.

    Attributes:
      method: the one with the largest rank, for the shapes of the arrays and the form of ΔW.
      frozen: arrays that train for none of the adapters, and what differs between them.
      is_lora: whether `scale` is an array.
      is_layered: whether it is one for each layer and rank.
      is_masked: whether `present` says that the weight is adapted, where zeros do not say so.
      drops: whether `keep` says how much dropout keeps.
    """

    method: Method
    frozen: tuple[str, ...]
    is_lora: bool
    is_layered: bool
    is_masked: bool
    drops: bool

    @property
    def dropout(self) -> float:
        """Above zero if any adapter has dropout; `keep` is what counts."""
        return 0.5 if self.drops else 0.0

    @property
    def elementwise(self) -> bool:
        """As the method's."""
        return is_elementwise(self.method)

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """Zeros, of the shapes that all adapters are padded to."""
        arrays = jax.tree.map(jnp.zeros_like, self.method.init(key, weight))
        return arrays | {name: jnp.asarray(x) for name, x in self.settings(None, weight).items()}

    def settings(self, method: Method | None, weight: Weight) -> dict[str, np.ndarray]:
        """The arrays that say how an adapter differs from the others.

        Args:
          method: the adapter's own at this weight; None if it leaves the weight alone.
          weight: the weight.

        Returns:
          `scale`, `present` and `keep`, as far as this method has them, in float32.
        """
        found: dict[str, np.ndarray] = {}
        if self.is_lora:
            found["scale"] = self._scale(method, weight)
        if self.is_masked:
            found["present"] = np.array(method is not None)
        if self.drops:
            found["keep"] = np.array(1.0 - (0.0 if method is None else method.dropout))
        return {name: np.asarray(value, np.float32) for name, value in found.items()}

    def _scale(self, method: Method | None, weight: Weight) -> np.ndarray:
        if not self.is_layered:
            return np.array(method.scale if isinstance(method, LoRA) else 0.0, np.float32)
        layers = weight.shape[weight.batch[0]]
        scales = np.zeros((layers, self.method.rank), np.float32)  # type: ignore[attr-defined]
        if isinstance(method, LoRA):
            own = method.layer_scales(layers)
            scales[:, : method.rank] = method.scale if own is None else own
        return scales

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """What one adapter's arrays do to the weight; nothing if it leaves the weight alone."""
        return self._masked(self.method.delta(arrays, weight), arrays)

    def _masked(self, delta: Delta, arrays: Mapping[str, Any]) -> Delta:
        if not self.is_masked:
            return delta
        present = arrays["present"]
        terms = tuple((*term, Factor(present, ())) for term in delta.terms)
        gain = tuple(Factor(jnp.where(present > 0, g.array, 1), g.axes) for g in delta.gain)
        return dataclasses.replace(delta, terms=terms, gain=gain)


@dataclasses.dataclass(frozen=True)
class JointWithBias(Joint):
    """`Joint` of a method that adapts the bias beside the weight too."""

    def bias_delta(self, arrays: Mapping[str, Any], bias: Weight) -> Delta:
        """What one adapter's arrays do to the bias."""
        return self._masked(self.method.bias_delta(arrays, bias), arrays)  # type: ignore[attr-defined]


def join_methods(path: str, methods: Mapping[str, Method], rank: int = 0) -> Joint:
    """Makes one method of those that many adapters have at a weight.

    Args:
      path: of the weight, for messages.
      methods: by the names of the adapters that adapt it; at least one.
      rank: at least this rank, so that others up to it fit too.

    Returns:
      The joint method.

    Raises:
      ValueError: two of them cannot share a program; the field and the two are named.
    """
    (first_name, first), *others = methods.items()
    for name, other in others:
        if why := _difference(first, other):
            raise ValueError(f"{first_name!r} and {name!r} cannot share a program at {path}: {why}")
    every = list(methods.values())
    loras = [method for method in every if isinstance(method, LoRA) and _family(method)]
    fixed = set(frozen_arrays(first)).intersection(*map(frozen_arrays, every))
    widest: Any = first
    if loras:
        # With a start to subtract if any has one: zeros subtract nothing.
        widest = max(loras, key=lambda m: (isinstance(m, Rebased), m.rank))
        largest = max(rank, *(m.rank for m in loras)) if rank else max(m.rank for m in loras)
        fixed |= set(frozen_arrays(widest)) & {"a0", "b0"}
        widest = dataclasses.replace(widest, rank=largest, ranks=None, alphas=None)
    is_masked = not loras or isinstance(widest, DoRA)
    drops = any(method.dropout for method in every)
    settings = {"scale": bool(loras), "present": is_masked, "keep": drops}
    kind = JointWithBias if hasattr(widest, "bias_delta") else Joint
    return kind(
        method=widest,
        frozen=(*sorted(fixed), *(name for name, has in settings.items() if has)),
        is_lora=bool(loras),
        is_layered=any(m.ranks is not None or m.alphas is not None for m in loras),
        is_masked=is_masked,
        drops=drops,
    )


def _family(method: Method) -> tuple[Any, ...] | None:
    return next((f for f in _FAMILIES if getattr(type(method), "delta", None) in f), None)


def _difference(first: Method, other: Method) -> str | None:
    """The field that keeps two methods out of one program, in words."""
    family = _family(first)
    if family != _family(other) or (family is None and type(first) is not type(other)):
        kinds = type(first).__name__, type(other).__name__
        return f"method {kinds[0]} and {kinds[1]} have different arrays"
    free = {"dropout"} if family is None else {"dropout", "rank", "alpha", "rs", "ranks", "alphas"}
    names = [f.name for f in dataclasses.fields(first)]  # type: ignore[arg-type]
    if family is not None:
        names = ["dtype"]  # what else there is says how it starts
    for name in names:
        own, its = getattr(first, name), getattr(other, name)
        if name not in free and own != its:
            return f"method.{name} is {own!r} and {its!r}"
    return None
