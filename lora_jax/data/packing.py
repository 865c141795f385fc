"""From examples of any length to rows of one: padded one by one, or several packed into a row.

An example is `{"ids", "trained"}`, two int32 arrays of one length: the tokens, and 1 where a token
is to be predicted. The rows are `{"ids", "trained", "segments"}`, int32 `[rows, length]`:
`segments` is 0 for padding and 1, 2, … for the examples of a row.
"""

from __future__ import annotations

import bisect
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

Example = Mapping[str, np.ndarray]
Rows = dict[str, np.ndarray]

TOO_LONG = ("raise", "cut", "drop")


def pad(
    examples: Sequence[Example], length: int, *, too_long: str = "raise", pad_id: int = 0
) -> Rows:
    """Gives each example a row of its own, padded at the end.

    Args:
      examples: at least one.
      length: tokens of a row.
      too_long: what becomes of an example of more tokens: "raise" an error, "cut" its end off, or
        "drop" it. What is lost is warned of.
      pad_id: the token of padding; no real token sees it.

    Returns:
      The rows, in the order of the examples.

    Raises:
      ValueError: no example, arrays that do not fit each other, or examples that are too long.
    """
    examples = _fit(examples, length, too_long)
    return _fill([[example] for example in examples], length, pad_id)


def pack(
    examples: Sequence[Example], length: int, *, too_long: str = "raise", pad_id: int = 0
) -> Rows:
    """Packs several examples into each row, none of them split.

    The longest come first, each into the fullest row that it fits into (best-fit decreasing), so
    little is padding. Examples of a row keep their order, and rows are in that of their first
    examples: the same examples always give the same rows. A model that is given `segments`
    computes for each example what it would compute for it alone.

    Args:
      examples: as in `pad`.
      length: as in `pad`.
      too_long: as in `pad`.
      pad_id: as in `pad`.

    Returns:
      The rows; `efficiency` tells how much of them is padding.

    Raises:
      ValueError: as in `pad`.

    Source: Johnson 1973, "Near-optimal bin packing algorithms".

    >>> one, two = ({"ids": np.arange(n), "trained": np.ones(n)} for n in (3, 2))
    >>> pack([one, two, one], length=5)["segments"].tolist()
    [[1, 1, 1, 2, 2], [1, 1, 1, 0, 0]]
    """
    examples = _fit(examples, length, too_long)
    rows = _best_fit([len(example["ids"]) for example in examples], length)
    return _fill([[examples[index] for index in row] for row in rows], length, pad_id)


def efficiency(rows: Rows) -> float:
    """The share of places that hold a real token, in (0, 1].

    >>> efficiency({"segments": np.array([[1, 1, 2], [1, 0, 0]])})
    0.6666666666666666
    """
    return float(np.mean(rows["segments"] != 0))


def _fit(examples: Sequence[Example], length: int, too_long: str) -> list[Example]:
    """The examples that fit into rows of a length, or what is made of those that do not."""
    if too_long not in TOO_LONG:
        raise ValueError(f"unknown too_long {too_long!r}; known: {', '.join(TOO_LONG)}")
    if length < 1:
        raise ValueError(f"rows of {length} tokens: at least 1 is needed")
    if not examples:
        raise ValueError("there are no examples")
    for index, example in enumerate(examples):
        ids, trained = np.shape(example["ids"]), np.shape(example["trained"])
        if len(ids) != 1 or ids != trained or not ids[0]:
            raise ValueError(
                f"example {index}: ids of shape {ids} and trained of shape {trained} are not one "
                "sequence of tokens"
            )
    longer = [example for example in examples if len(example["ids"]) > length]
    if not longer:
        return list(examples)
    most = max(len(example["ids"]) for example in longer)
    found = (
        f"{len(longer)} of {len(examples)} examples are longer than {length} tokens (up to {most})"
    )
    start = 0 if too_long == "drop" else length
    gone = sum(int(np.sum(example["trained"][start:])) for example in longer)
    lost = f"{gone} trained tokens with them"
    if too_long == "raise":
        raise ValueError(
            f"{found}: longer rows would hold them; too_long='cut' cuts off their ends, and {lost}"
        )
    if too_long == "cut":
        warnings.warn(f"{found}: their ends are cut off, and {lost}", stacklevel=3)
        cut = lambda example: {name: example[name][:length] for name in ("ids", "trained")}
        return [cut(example) for example in examples]
    warnings.warn(f"{found}: they are left out, and {lost}", stacklevel=3)
    if len(longer) == len(examples):
        raise ValueError(f"every example is longer than {length} tokens: none is left")
    return [example for example in examples if len(example["ids"]) <= length]


def _best_fit(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Indices of the examples of each row."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # of each row that has any, and which row it is; sorted
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        at = bisect.bisect_left(room, (sizes[index], -1))
        if at == len(room):
            left, row = length, len(rows)
            rows.append([])
        else:
            left, row = room.pop(at)
        rows[row].append(index)
        if left > sizes[index]:
            bisect.insort(room, (left - sizes[index], row))
    return sorted(sorted(row) for row in rows)


def _fill(rows: Sequence[Sequence[Example]], length: int, pad_id: int) -> Rows:
    shape = (len(rows), length)
    ids = np.full(shape, pad_id, np.int32)
    trained, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for row, examples in enumerate(rows):
        start = 0
        for number, example in enumerate(examples, 1):
            stop = start + len(example["ids"])
            ids[row, start:stop] = example["ids"]
            trained[row, start:stop] = example["trained"]
            segments[row, start:stop] = number
            start = stop
    return {"ids": ids, "trained": trained, "segments": segments}
