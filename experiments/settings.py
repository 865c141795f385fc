"""Settings that many experiments have: names, seeds, ranks and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from ml_collections import ConfigDict


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


def check_ranks(ranks: Sequence[int]) -> None:
    """Refuses ranks that no adapters could be compared at.

    Raises:
      ValueError: none, some twice, or one below 1.
    """
    found = list(ranks)
    if not found or min(found) < 1 or len(set(found)) < len(found):
        raise ValueError(f"ranks = {found}: name one or more different ranks from 1")


def check_counts(config: ConfigDict, *fields: str) -> None:
    """Refuses numbers of things of which one is needed at least.

    Args:
      config: the settings.
      fields: their names, such as "steps" or "latency.rounds".

    Raises:
      ValueError: one is below 1.
    """
    for field in fields:
        if (count := attrgetter(field)(config)) < 1:
            raise ValueError(f"{field} = {count}: at least 1 is needed")
