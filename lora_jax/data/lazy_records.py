"""Records that are made or read when they are asked for, so that no set needs to fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from lora_jax.data.text_task import TextRecord


class LazyRecords(Sequence[TextRecord]):
    """A sequence of records that holds none.

    Args:
      count: how many there are.
      make: makes the record of a row; the same row gives the same record.
    """

    def __init__(self, count: int, make: Callable[[int], TextRecord]) -> None:
        self._count = count
        self._make = make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, row: int) -> TextRecord: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[TextRecord, ...]: ...
    def __getitem__(self, row: int | slice) -> TextRecord | tuple[TextRecord, ...]:
        """Makes a record, or several."""
        if isinstance(row, slice):
            return tuple(self._make(i) for i in range(*row.indices(self._count)))
        if not -self._count <= row < self._count:
            raise IndexError(f"record {row} of {self._count}")
        return self._make(row % self._count)
