"""Texts that say the same in nearly the same words."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

Shingles = frozenset[tuple[str, ...]]


def shingles(text: str, size: int = 2) -> Shingles:
    """Runs of neighbouring words, whatever their case and punctuation.

    Args:
      text: any text.
      size: words in a run. A shorter text is one run.

    Returns:
      The set of runs.

    >>> sorted(shingles("Return the name, the NAME."))
    [('name', 'the'), ('return', 'the'), ('the', 'name')]
    """
    words = re.findall(r"\w+", text.lower())
    return frozenset(tuple(words[i : i + size]) for i in range(max(1, len(words) - size + 1)))


def similarity(first: Shingles, second: Shingles) -> float:
    """Jaccard similarity: the share of the runs of either that both have, in [0, 1].

    Source: Broder 1997, "On the resemblance and containment of documents".

    >>> similarity(shingles("open the file now"), shingles("open the file again"))
    0.5
    """
    return len(first & second) / len(first | second)


def without_near_duplicates(texts: Sequence[str], threshold: float) -> list[int]:
    """Keeps a text unless one that was kept before it is as similar as `threshold`.

    Args:
      texts: in order of preference.
      threshold: least similarity of near-duplicates, in (0, 1].

    Returns:
      The indices of the texts that are kept; no two of them are near-duplicates.

    Source: Chaudhuri et al. 2006, "A primitive operator for similarity joins in data cleaning",
    for the prefix filter.

    >>> without_near_duplicates(["Close the file.", "close the file", "Open a socket."], 0.5)
    [0, 2]
    """
    all_runs = [shingles(text) for text in texts]
    frequency = Counter(run for runs in all_runs for run in runs)
    kept: list[int] = []
    having: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, runs in enumerate(all_runs):
        # Similar sets have a run in common even among the rarest few of each, so that common runs
        # such as ("of", "the") need not be looked up.
        rarest = sorted(runs, key=lambda run: (frequency[run], run))
        few = rarest[: len(runs) - math.ceil(threshold * len(runs)) + 1]
        candidates = {other for run in few for other in having[run]}
        if any(similarity(runs, all_runs[other]) >= threshold for other in candidates):
            continue
        kept.append(index)
        for run in few:
            having[run].append(index)
    return kept
