"""What a rule may ask of the interpreter about the equation at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from lora_jax.lifting.algebra import AdaptedWeight


@runtime_checkable
class Call(Protocol):
    """One equation, as a rule sees it."""

    params: dict[str, Any]
    discovering: bool  # roles are being discovered: every weight is adapted, by nothing

    def base(self, *operands: Any) -> Any:
        """The original equation on these operands; rows of a packed weight stay packed."""
        ...

    def dropped(self, weight: AdaptedWeight, x: Any) -> Any:
        """`x` after the weight's dropout, with a mask of this use's own."""
        ...

    def record(
        self,
        weight: AdaptedWeight,
        contracted: Sequence[int],
        batch: Sequence[int],
        windows: Sequence[int] = (),
    ) -> None:
        """Notes how the axes of the weight are used."""
        ...

    def densify(self, weight: AdaptedWeight, why: str) -> Any:
        """The dense W + ΔW, reported as a fallback."""
        ...
