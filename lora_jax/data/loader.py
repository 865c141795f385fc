"""Batches: an endless shuffled stream to train on, and one pass in order to evaluate."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence

import grain
import numpy as np

from lora_jax.data.encode import Examples


class _Rows:
    """Random access to the examples, row by row, as Grain wants it."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return count(self._examples)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        return {name: values[row] for name, values in self._examples.items()}


def count(examples: Examples) -> int:
    """Counts examples."""
    return len(next(iter(examples.values())))


class Batches(abc.ABC):
    """An endless stream of batches. Its place is the number of batches that it has given."""

    def __init__(
        self, rows: Sequence[int] | None, batch_size: int, examples: int, least: int = 1
    ) -> None:
        """Begins the stream.

        Args:
          rows: which rows of each batch this process reads; None for all.
          batch_size: rows of a batch, at least 1.
          examples: how many there are.
          least: how many are needed.

        Raises:
          ValueError: a batch of no rows, rows that it lacks, or too few examples.
        """
        self._rows = [int(row) for row in (range(batch_size) if rows is None else rows)]
        inside = self._rows and all(0 <= row < batch_size for row in self._rows)
        if not inside or examples < least:
            raise ValueError(
                f"cannot make batches of {batch_size} from {examples} examples, of which this "
                f"process reads the rows {self._rows}"
            )
        self._next = 0

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        found = [self._read(self._next, row) for row in self._rows]
        self._next += 1
        return {name: np.stack([row[name] for row in found]) for name in found[0]}

    def get_state(self) -> dict[str, int]:
        """Returns the place, in JSON."""
        return {"next_index": self._next}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Moves to a place."""
        self._next = state["next_index"]

    @abc.abstractmethod
    def describe(self) -> str:
        """Says how long batches are."""

    @abc.abstractmethod
    def _read(self, batch: int, row: int) -> Mapping[str, np.ndarray]:
        """Reads a row of the batch of that number, counted from 0."""


class TrainingBatches(Batches):
    """Batches of one length, shuffled anew in each pass, as `training_batches` says."""

    def __init__(
        self, examples: Examples, batch_size: int, *, seed: int, rows: Sequence[int] | None = None
    ) -> None:
        super().__init__(rows, batch_size, count(examples))
        self._batch_size = batch_size
        self._stream = grain.MapDataset.source(_Rows(examples)).seed(seed).shuffle().repeat()

    def describe(self) -> str:
        """Says how long batches are."""
        return "batches of one length"

    def _read(self, batch: int, row: int) -> dict[str, np.ndarray]:
        return self._stream[batch * self._batch_size + row]


def training_batches(
    examples: Examples, batch_size: int, *, seed: int, rows: Sequence[int] | None = None
) -> TrainingBatches:
    """Makes an endless stream of batches, shuffled anew in each pass over the examples.

    The stream depends on examples, batch size and seed alone. Every pass holds each example once; a
    batch may take its first rows from the end of one pass and the others from the next. Processes
    that read different rows read the same batches between them, however many they are, and a place
    in the stream is the same for all.

    Args:
      examples: name -> array [examples, ...].
      batch_size: rows of a batch, at least 1.
      seed: of the order.
      rows: which rows of each batch to read, as `training.process_rows` says; default all.

    Returns:
      An iterator over `{name: array [rows, ...]}` whose `get_state` and `set_state` give and take
      its place.

    Raises:
      ValueError: a batch of no rows, rows that it lacks, or no examples.
    """
    return TrainingBatches(examples, batch_size, seed=seed, rows=rows)


def evaluation_batches(
    examples: Examples, batch_size: int
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Goes through the examples once, in order, in batches of one shape.

    Args:
      examples: name -> array [examples, ...].
      batch_size: rows of a batch, at least 1.

    Yields:
      A batch, and how many of its rows are examples: the last batch is filled up by repeating its
      last row, so that a compiled function sees one shape only.
    """
    if batch_size < 1:
        raise ValueError(f"cannot make batches of {batch_size} rows")
    total = count(examples)
    for start in range(0, total, batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), total - 1)
        batch = {name: values[rows] for name, values in examples.items()}
        yield batch, min(batch_size, total - start)
