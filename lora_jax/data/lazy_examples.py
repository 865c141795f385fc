"""Examples that are read and encoded when they are asked for: no set needs to fit in memory.

What must be known beforehand is how long each is. `survey` finds out, of a part of the records:
several processes share the work, and each then reads only what its own rows need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np

from lora_jax.data.encode_text import TextEncoder
from lora_jax.data.packing import Example
from lora_jax.data.text_task import TextRecord

_AT_ONCE = 256  # records that are held at the same time


class Survey(NamedTuple):
    """What encoding showed, of which nothing else was kept.

    Attributes:
      sizes: tokens of each record [records], int32; 0 for those that were left out.
      cut: places of the records whose prompts were cut.
      skipped: place and fault of the records that were left out.
    """

    sizes: np.ndarray
    cut: tuple[str, ...]
    skipped: tuple[str, ...]


def survey(encoder: TextEncoder, records: Sequence[TextRecord], rows: Sequence[int]) -> Survey:
    """Encodes records a few at a time, and notes how long they are.

    Args:
      encoder: of the model.
      records: of a task; only those of `rows` are read.
      rows: which of them.

    Returns:
      What was found, in the order of `rows`.

    Raises:
      ValueError: as `TextEncoder.encode`.
    """
    sizes = np.zeros(len(rows), np.int32)
    cut: list[str] = []
    skipped: list[str] = []
    for start in range(0, len(rows), _AT_ONCE):
        found = encoder.encode([records[row] for row in rows[start : start + _AT_ONCE]])
        sizes[[start + row for row in found.rows]] = [len(e["ids"]) for e in found.examples]
        cut += found.cut
        skipped += found.skipped
    return Survey(sizes, tuple(cut), tuple(skipped))


class LazyExamples(Sequence[Example]):
    """The examples of records, of which it holds none.

    Attributes:
      sizes: tokens of each [examples].
    """

    def __init__(
        self,
        encoder: TextEncoder,
        records: Sequence[TextRecord],
        rows: Sequence[int],
        sizes: np.ndarray,
    ) -> None:
        """Leaves out what the survey left out.

        Args:
          encoder: of the model.
          records: of a task, also such as are read when they are asked for.
          rows: which of them.
          sizes: of these, as `survey` found them.
        """
        self._encoder, self._records = encoder, records
        self._rows = np.asarray(rows)[sizes > 0]
        self.sizes = sizes[sizes > 0]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        """Reads and encodes an example, or several."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        record = self._records[int(self._rows[index])]
        (example,) = self._encoder.encode([record]).examples
        return example
