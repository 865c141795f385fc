"""Batches: an endless shuffled stream to train on, and one pass in order to evaluate."""

from __future__ import annotations

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


class TrainingBatches:
    """An endless stream of batches. Its place is the number of batches that it has given."""

    def __init__(
        self, stream: grain.MapDataset[dict[str, np.ndarray]], batch_size: int, rows: Sequence[int]
    ) -> None:
        self._stream = stream
        self._batch_size = batch_size
        self._rows = [int(row) for row in rows]
        self._next = 0

    def __iter__(self) -> TrainingBatches:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        start = self._next * self._batch_size
        found = [self._stream[start + row] for row in self._rows]
        self._next += 1
        return {name: np.stack([row[name] for row in found]) for name in found[0]}

    def get_state(self) -> dict[str, int]:
        """Returns the place, in JSON."""
        return {"next_index": self._next}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Moves to a place."""
        self._next = state["next_index"]

    def describe(self) -> str:
        """Says how long batches are."""
        return "batches of one length"


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
    rows = range(batch_size) if rows is None else rows
    if not len(rows) or not all(0 <= row < batch_size for row in rows) or not count(examples):
        raise ValueError(
            f"cannot make batches of {batch_size} from {count(examples)} examples, of which this "
            f"process reads the rows {list(rows)}"
        )
    stream = grain.MapDataset.source(_Rows(examples)).seed(seed).shuffle().repeat()
    return TrainingBatches(stream, batch_size, rows)


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
