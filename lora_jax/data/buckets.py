"""Batches whose rows are about equally long: little padding without packing.

A step is compiled once for each length that a batch may have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lora_jax.data.encode import Examples
from lora_jax.data.lazy_examples import LazyExamples
from lora_jax.data.loader import Batches
from lora_jax.data.packing import pad

# Makes the row of an example, padded or cut to so many tokens: arrays [length], or numbers.
Read = Callable[[int, int], Mapping[str, np.ndarray]]


class _Pass(NamedTuple):
    """One pass over the examples.

    Attributes:
      examples: the indices of each batch [batches, batch_size].
      lengths: tokens of the rows of each batch [batches].
    """

    examples: np.ndarray
    lengths: np.ndarray


class BucketedBatches(Batches):
    """Batches of several lengths, each of examples that are about equally long."""

    def __init__(
        self,
        read: Read,
        sizes: np.ndarray,
        lengths: Sequence[int],
        batch_size: int,
        *,
        seed: int,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Makes the stream; it depends on sizes, lengths, batch size and seed alone.

        Every pass is in an order of its own. Batches are of examples of one bucket; the few that
        fill no batch go up into the next bucket. What does not fill a last batch is left out of a
        pass: fewer than `batch_size` examples, others each time.

        Args:
          read: makes the row of an example; asked for the rows of this process alone.
          sizes: tokens of each example [examples], all of at least 1.
          lengths: tokens that the rows of a batch may have.
          batch_size: rows of a batch, at least 1.
          seed: of the order.
          rows: which rows of each batch to read, as `training.process_rows` says; default all.

        Raises:
          ValueError: no lengths, an example that is longer than all of them, fewer examples than
            rows of a batch, or rows that it lacks.
        """
        super().__init__(rows, batch_size, len(sizes), least=batch_size)
        self._lengths = np.unique(np.asarray(lengths, np.int64))  # in order
        if not self._lengths.size or self._lengths[0] < 1:
            raise ValueError(f"buckets of {list(lengths)} tokens: at least one, of 1 token or more")
        if np.max(sizes) > self._lengths[-1]:
            raise ValueError(
                f"an example has {np.max(sizes)} tokens, and the longest bucket {self._lengths[-1]}"
            )
        self._make_row, self._sizes, self._seed = read, np.asarray(sizes), seed
        self._batch_size = batch_size
        self._planned = 0, self._plan(0)

    @property
    def tokens(self) -> float:
        """Real tokens of a batch, on average."""
        return self._batch_size * float(np.mean(self._sizes))

    def describe(self) -> str:
        """Says how long batches are, and how much of them is filled, in the first pass."""
        examples, lengths = self._plan(0)
        filled = self._sizes[examples].sum() / (self._batch_size * lengths.sum())
        found, counts = np.unique(lengths, return_counts=True)
        named = [f"{count:,} of {n}" for n, count in zip(found, counts, strict=True)]
        return f"batches by the tokens of their rows: {', '.join(named)}; {filled:.0%} filled"

    def _read(self, batch: int, row: int) -> Mapping[str, np.ndarray]:
        number, batch = divmod(batch, len(self._sizes) // self._batch_size)
        if number != self._planned[0]:
            self._planned = number, self._plan(number)
        examples, length = (part[batch] for part in self._planned[1])
        return self._make_row(int(examples[row]), int(length))

    def _plan(self, number: int) -> _Pass:
        chance = np.random.default_rng((self._seed, number))
        whole = len(self._sizes) // self._batch_size * self._batch_size
        order = chance.permutation(len(self._sizes))[:whole]
        bucket = np.searchsorted(self._lengths, self._sizes)
        # Stable, so that each bucket is in a random order.
        batches = order[np.argsort(bucket[order], kind="stable")].reshape(-1, self._batch_size)
        batches = batches[chance.permutation(len(batches))]
        return _Pass(batches, self._lengths[bucket[batches].max(axis=1)])


def bucketed_batches(
    examples: Examples,
    lengths: Sequence[int],
    batch_size: int,
    *,
    seed: int,
    rows: Sequence[int] | None = None,
) -> BucketedBatches:
    """Makes batches of rows that are padded at their ends, and cuts off what none of a batch needs.

    Args:
      examples: name -> array [examples, ...], as `encode` and `pad` make them: `mask` or
        `segments` [examples, length] is not 0 where a token is real.
      lengths: tokens that rows may have, besides those that they have.
      batch_size: see `BucketedBatches`.
      seed: see `BucketedBatches`.
      rows: see `BucketedBatches`.

    Returns:
      The stream.

    Raises:
      ValueError: a length beyond that of the rows, or see `BucketedBatches`.
    """
    real = examples["mask" if "mask" in examples else "segments"] != 0
    width = real.shape[1]
    check_lengths(lengths, width)
    sizes = width - np.argmax(real[:, ::-1], axis=1)  # up to the last real token

    def read(index: int, length: int) -> dict[str, np.ndarray]:
        cut = lambda x: x[:length] if x.ndim else x
        return {name: cut(np.asarray(x[index])) for name, x in examples.items()}

    return BucketedBatches(read, sizes, [*lengths, width], batch_size, seed=seed, rows=rows)


def streamed_batches(
    examples: LazyExamples,
    lengths: Sequence[int],
    batch_size: int,
    *,
    seed: int,
    rows: Sequence[int] | None = None,
) -> BucketedBatches:
    """Makes batches of examples that are read and encoded when their turn comes.

    A process reads its own rows alone, and no process holds the examples.

    Args:
      examples: of one row each.
      lengths: tokens that rows may have.
      batch_size: see `BucketedBatches`.
      seed: see `BucketedBatches`.
      rows: see `BucketedBatches`.

    Returns:
      The stream: batches as `pad` makes them.

    Raises:
      ValueError: see `BucketedBatches`.
    """

    def read(index: int, length: int) -> dict[str, np.ndarray]:
        return {name: x[0] for name, x in pad([examples[index]], length).items()}

    return BucketedBatches(read, examples.sizes, lengths, batch_size, seed=seed, rows=rows)


def check_lengths(lengths: Sequence[int], longest: int) -> None:
    """Checks that buckets are no longer than rows may be.

    Raises:
      ValueError: one is, or is shorter than a token.
    """
    wrong = [length for length in lengths if not 0 < length <= longest]
    if wrong:
        raise ValueError(f"buckets of {wrong} tokens: they have from 1 to {longest}, as rows have")
