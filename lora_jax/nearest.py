"""The valid choices nearest to a wrong one, which errors name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 200  # of what is compared: a stranger may ask for anything


def nearest(
    wanted: str, choices: Iterable[str], count: int = 1, *, likeness: float = 0.0
) -> list[str]:
    """The choices that are spelt most like what was asked for.

    Args:
      wanted: what was asked for.
      choices: what there is.
      count: how many to name at most.
      likeness: what a choice must have at least, from 0 to 1 (the same).

    Returns:
      The nearest first; fewer than `count` where there are fewer, or they are not alike.

    >>> nearest("q_prj", ("k_proj", "q_proj", "fc1"), 2)
    ['q_proj', 'k_proj']
    """
    return difflib.get_close_matches(wanted[:_LONGEST], list(choices), n=count, cutoff=likeness)


def name_nearest(wanted: str, choices: Iterable[str], count: int = 3) -> str:
    """The nearest choices as an error lists them; "none" where there are no choices.

    >>> name_nearest("q_prj", ("k_proj", "q_proj", "fc1"), 2)
    'q_proj, k_proj'
    """
    return ", ".join(nearest(wanted, choices, count)) or "none"
