"""Which evaluation was the best, and when to stop waiting for a better one.

Both follow from the rows of the metrics alone, so a resumed run decides as an uninterrupted one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from lora_jax.nearest import name_nearest
from lora_jax.training.metrics import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Best:
    """By what evaluations are compared.

    Attributes:
      metric: name of a value that `evaluate` returns.
      mode: whether more of it is better, `max`, or less, `min`.
      patience: evaluations in a row without a better one after which training ends; 0 for never.
    """

    metric: str
    mode: Literal["max", "min"] = "max"
    patience: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min") or self.patience < 0:
            raise ValueError(
                f"best.mode = {self.mode!r} and best.patience = {self.patience}: the mode is max "
                f"or min, and the patience 0 or more evaluations"
            )

    def is_newest(self, rows: Sequence[Row]) -> bool:
        """Says whether the last evaluation is better than all before it."""
        return self._waited(rows) == 0

    def gives_up(self, rows: Sequence[Row]) -> bool:
        """Says whether patience has run out."""
        return self.patience > 0 and (self._waited(rows) or 0) >= self.patience

    def reason(self) -> str:
        """Says why training ended."""
        return f"{self.metric} was not better in {self.patience} evaluations"

    def _waited(self, rows: Sequence[Row]) -> int | None:
        """Counts the evaluations since the best one; `None` before the first."""
        best, waited, evaluated = None, 0, False
        for value in self._values(rows):
            evaluated, waited = True, waited + 1
            # Not a number is null in a row: no better than anything.
            if value is not None and (best is None or self._is_better(value, best)):
                best, waited = value, 0
        return waited if evaluated else None

    def _values(self, rows: Sequence[Row]) -> list[float | None]:
        evaluations = [row for row in rows if any(name.startswith("eval/") for name in row)]
        name = f"eval/{self.metric}"
        for row in evaluations:
            if name not in row:
                names = [known.removeprefix("eval/") for known in row if known != "step"]
                near = name_nearest(self.metric, names)
                raise ValueError(
                    f"best.metric = {self.metric!r}: the evaluation of step {row['step']} has no "
                    f"such value; nearest: {near}"
                )
        return [row[name] for row in evaluations]

    def _is_better(self, value: float, best: float) -> bool:
        return value > best if self.mode == "max" else value < best
