"""metrics.jsonl: one JSON object a line, one line a training step or an evaluation.

{"step": 12, "loss": 0.71, "grad_norm": 1.2, "lr": 0.0009, "seconds": 0.11, "tokens": 2048}
{"step": 20, "eval/accuracy": 0.83}
{"step": 31, "loss": null, "grad_norm": null, ..., "skipped": 1}

`skipped` counts the steps that were left out so far (`guard`), once there are any.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from lora_jax.training.workdir import explained, write_text

Row = dict[str, Any]


class MetricsLog:
    """Rows of numbers, in memory and, if there is a path, in a file that grows line by line."""

    rows: list[Row]

    def __init__(self, path: Path | None = None, step: int = 0, *, write: bool = True) -> None:
        """Opens a log to go on after `step`.

        Args:
          path: the file; `None` keeps the rows in memory only.
          step: the step that the run resumes from. Later rows of an interrupted run, and a line
            torn by its end, are dropped, since those steps are made again.
          write: False for a process that only reads what another one writes.
        """
        self.rows = [row for row in read_rows(path) if row["step"] <= step] if path else []
        self._path = path
        self._file: IO[str] | None = None
        if path and write:
            write_text(path, "".join(map(_line, self.rows)))
            self._file = path.open("a")

    def write(self, step: int, values: Mapping[str, Any]) -> Row:
        """Adds a row.

        Args:
          step: number of updates made.
          values: name -> number. NaN and infinities, which JSON lacks, become null.

        Returns:
          The row.

        Raises:
          OSError: it cannot be written, as on a full disk.
        """
        row = {"step": step, **{name: _number(value) for name, value in values.items()}}
        self.rows.append(row)
        if self._file and self._path:
            try:
                self._file.write(_line(row))
                self._file.flush()
            except OSError as error:
                raise explained(error, self._path) from error
        return row

    def sync(self) -> None:
        """Waits until all rows are on the disk, as before a checkpoint that goes on from them."""
        if self._file:
            os.fsync(self._file.fileno())

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file:
            self._file.close()


def read_rows(path: Path) -> list[Row]:
    """Reads a metrics file.

    Args:
      path: the file; it may be absent, and its last line may be torn.

    Returns:
      Its rows.
    """
    if not path.exists():
        return []
    whole_lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in whole_lines]


def _line(row: Row) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _number(value: Any) -> int | float | None:
    if isinstance(value, int):
        return value
    return float(value) if math.isfinite(value) else None
