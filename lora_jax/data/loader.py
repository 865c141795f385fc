"""Batches: an endless shuffled stream to train on, and one pass in order to evaluate."""

from __future__ import annotations

from collections.abc import Iterator

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


def training_batches(
    examples: Examples, batch_size: int, *, seed: int, shard: tuple[int, int] = (0, 1)
) -> grain.DatasetIterator:
    """Makes an endless stream of batches, shuffled anew in each pass over the examples.

    The stream depends on the arguments alone. Every pass holds each example once; a batch may
    take its first rows from the end of one pass and the others from the next.

    Args:
      examples: name -> array [examples, ...].
      batch_size: rows of a batch, at least 1.
      seed: of the order.
      shard: (index, count): every process of a group reads its own share of the examples.

    Returns:
      An iterator over `{name: array [batch_size, ...]}` whose `get_state` and `set_state` give and
      take its place.

    Raises:
      ValueError: a batch of no rows, or fewer examples than processes.
    """
    index, shards = shard
    if batch_size < 1 or not 0 <= index < shards <= count(examples):
        raise ValueError(
            f"cannot make batches of {batch_size} from {count(examples)} examples for process "
            f"{index} of {shards}"
        )
    rows = grain.MapDataset.source(_Rows(examples))[index::shards]
    batches = rows.seed(seed).shuffle().repeat().batch(batch_size, drop_remainder=True)
    # The rows are in memory: reading ahead in threads would only take cores from the model.
    direct = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return iter(batches.to_iter_dataset(direct))


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
