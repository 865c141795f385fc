"""From rows of files to records of a task; a bad row is an error, or left out and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from lora_jax.data.readers import Fields, read_rows
from lora_jax.data.sources import Reader, Source, read_split

BAD_ROWS = ("raise", "skip")

Made = TypeVar("Made")


class Reading:
    """Reads the splits of one data set.

    Args:
      source: says where the files are.
      directory: as of `sources.read_split`.
      bad_rows: "raise" makes a row that is not as it should be an error that names file and line;
        "skip" leaves it out and notes that in `skipped`.
      read: reads one file.

    Raises:
      ValueError: `bad_rows` is neither.
    """

    def __init__(
        self,
        source: Source,
        directory: str | Path | None = None,
        bad_rows: str = "raise",
        read: Reader = read_rows,
    ) -> None:
        if bad_rows not in BAD_ROWS:
            raise ValueError(f"bad_rows is {bad_rows!r}; known: {', '.join(BAD_ROWS)}")
        self.skipped: list[str] = []
        self._source = source
        self._directory = directory
        self._bad_rows = bad_rows
        self._read = read

    def records(self, split: str, make: Callable[[Fields, str], Made]) -> tuple[Made, ...]:
        """Reads one split.

        Args:
          split: its name.
          make: makes the record of a row's fields and its place; its ValueError says what is wrong
            with them.

        Returns:
          The records, in the order of the files.

        Raises:
          FileNotFoundError: no place has the split.
          ValueError: a row is bad and `bad_rows` is "raise", or there is none.
        """
        found = tuple(self._good(split, make))
        if not found:
            raise ValueError(f"{self._source.folder} has no record to read for {split!r}")
        return found

    def _good(self, split: str, make: Callable[[Fields, str], Made]) -> Iterator[Made]:
        for row, place in read_split(self._source, split, self._directory, self._read):
            try:
                if isinstance(row, ValueError):
                    raise row
                yield make(row, place)
            except (ValueError, FileNotFoundError) as error:
                fault = f"{place}: {error}"
                if self._bad_rows == "raise":
                    raise ValueError(fault) from error
                self.skipped.append(fault)
