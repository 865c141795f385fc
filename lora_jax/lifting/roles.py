"""Roles are discovered, not declared: one abstract trace tells how each weight's axes are used.

Contracted with the activation: *in* (A's side). Kept in the result: *out* (B's side). Shared with
the data, scanned or indexed: *batch* (both sides).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_jax.lifting.interpreter import Use


@dataclasses.dataclass(frozen=True)
class Weight:
    """What a method is told about the weight it adapts.

    Attributes:
      path: where it lies in the params tree, e.g. ``"layers/q_proj/kernel"``.
      shape: of the whole (stacked) weight.
      dtype: of the frozen weight.
      batch: axes on both sides of ΔW (stacked layers, experts).
      ins: axes contracted with the activation.
      outs: axes kept in the result.
      uses: the primitives that consume it, in the order of the program.
      windows: those of `ins` along which a convolution slides.
      value: the frozen weight itself, where a method may look at it; else None.
      gathered: what a pass over some data found out about it (see `Lifted.init`); else None.
    """

    path: str
    shape: tuple[int, ...]
    dtype: Any
    batch: tuple[int, ...]
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    uses: tuple[str, ...] = ()
    windows: tuple[int, ...] = ()
    value: Any = dataclasses.field(default=None, compare=False, repr=False)
    gathered: Any = dataclasses.field(default=None, compare=False, repr=False)

    def sizes(self, axes: Sequence[int]) -> tuple[int, ...]:
        """The sizes of some axes.

        >>> w = Weight("w", (12, 64, 256), "float32", batch=(0,), ins=(1,), outs=(2,))
        >>> w.sizes(w.batch + w.ins)
        (12, 64)
        """
        return tuple(self.shape[axis] for axis in axes)

    @property
    def fan_in(self) -> int:
        return math.prod(self.sizes(self.ins))

    @property
    def fan_out(self) -> int:
        return math.prod(self.sizes(self.outs))

    @property
    def is_linear(self) -> bool:
        """Whether it is only ever multiplied with activations: neither looked up nor convolved."""
        return bool(self.uses) and set(self.uses) <= {"dot_general", "ragged_dot_general"}

    @property
    def is_looked_up(self) -> bool:
        """Whether its first side is a vocabulary whose rows are picked."""
        return "gather" in self.uses

    @property
    def has_roles(self) -> bool:
        """Whether the trace found an input side and an output side."""
        return bool(self.uses)


def weight_from_uses(path: str, shape: tuple[int, ...], dtype: Any, uses: Sequence[Use]) -> Weight:
    """The roles of one weight's axes.

    The first use that leaves an output side decides (a tied embedding is looked up, then
    contracted: the look-up gives vocabulary -> in, width -> out). A weight that no rule consumes
    gets the convention of a matrix, all axes but the last -> in.

    Args:
      path: where the weight lies in the params tree.
      shape: of the whole weight.
      dtype: of the frozen weight.
      uses: those that concern it, in the order of the program.
    """
    axes_of = lambda origin: {axis for owner, axis in origin if owner == path}
    whole = [use for use in uses if axes_of(use.contracted) and axes_of(use.free)]
    axes = tuple(range(len(shape)))
    if not whole:
        return Weight(path, shape, dtype, batch=(), ins=axes[:-1], outs=axes[-1:])
    batch, ins = axes_of(whole[0].batch), axes_of(whole[0].contracted)
    return Weight(
        path,
        shape,
        dtype,
        batch=tuple(axis for axis in axes if axis in batch),
        ins=tuple(axis for axis in axes if axis in ins),
        outs=tuple(axis for axis in axes if axis not in batch | ins),
        uses=tuple(dict.fromkeys(use.primitive for use in uses)),
        windows=tuple(sorted(axes_of(whole[0].windows))),
    )
