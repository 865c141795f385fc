"""Settings that many experiments have: names and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def listed(names: Sequence[str]) -> list[str]:
    """Names, each once; a flag on the command line gives one string, with commas.

    >>> listed(("q_proj,v_proj",))
    ['q_proj', 'v_proj']
    """
    return [name for name in dict.fromkeys(",".join(names).split(",")) if name]


def check_seeds(seeds: Sequence[Any], field: str = "seeds", least: int = 1) -> None:
    """Refuses seeds that could only fail after training.

    Raises:
      ValueError: too few, some twice, or what is no whole number.
    """
    found = list(seeds)
    if len(found) < least or len(set(found)) < len(found) or any(type(s) is not int for s in found):
        few = "one" if least == 1 else least
        raise ValueError(f"{field} = {found}: name {few} or more different whole numbers")
