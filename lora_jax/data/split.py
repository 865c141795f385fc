"""Parts of sets: sides where they come without (by a hash, or by a published seed), and fewer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def in_test(name: str, share: float) -> bool:
    """Says whether a record belongs to the test set, which depends on its name alone.

    A record stays on its side whatever else is there, and in whatever order.

    Args:
      name: names the record, and nothing else.
      share: of the records that are for testing, in [0, 1].

    >>> sum(in_test(str(i), 0.25) for i in range(1000))
    229
    """
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 1000 < 1000 * share


def hold_out(
    records: Sequence[Item], name: Callable[[Item], str], share: float
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Splits records by `in_test`.

    Args:
      records: any number of them.
      name: names a record.
      share: of the records that are for testing.

    Returns:
      Those to train on, and those to test on, in their order.
    """
    held = [in_test(name(record), share) for record in records]
    return (
        tuple(record for record, is_test in zip(records, held, strict=True) if not is_test),
        tuple(record for record, is_test in zip(records, held, strict=True) if is_test),
    )


def shuffled_split(
    records: Sequence[Item], share: float, seed: int
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Splits records as scikit-learn's `train_test_split(test_size=share, random_state=seed)` does.

    Args:
      records: in the order of their file.
      share: of the records that are for testing, in (0, 1); rounded up.
      seed: of the permutation.

    Returns:
      Those to train on, and those to test on.
    """
    order = np.random.RandomState(seed).permutation(len(records))
    test = math.ceil(share * len(records))
    return tuple(records[i] for i in order[test:]), tuple(records[i] for i in order[:test])


def spread(records: Sequence[Item], most: int) -> list[Item]:
    """At most so many records, evenly spread: files are often sorted.

    Args:
      records: any number of them.
      most: how many are wanted; 0 for all.

    >>> spread("abcdef", 3)
    ['a', 'c', 'e']
    """
    return [records[row] for row in spread_rows(len(records), most)]


def spread_rows(count: int, most: int) -> list[int]:
    """Which of so many records `spread` takes.

    >>> spread_rows(6, 3)
    [0, 2, 4]
    """
    some = min(most or count, count)
    return [i * count // some for i in range(some)]
