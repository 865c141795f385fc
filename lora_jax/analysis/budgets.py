"""At which ranks sets of targets cost the same: as many parameters, or as long a latency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Ratio = tuple[float, float, float]
"""A ratio to the base, and the ends of its 95 % interval."""


class Fit(NamedTuple):
    """The largest rank of a set that keeps within a budget of latency.

    Attributes:
      rank: the rank; None if no measured rank keeps within it.
      ratio: latency over the base's at this rank, or at the smallest where none fits.
      low: end of its interval.
      high: end of its interval.
      certain: whether the whole interval lies on the same side of the limit.
    """

    rank: int | None
    ratio: float
    low: float
    high: float
    certain: bool


def ranks_of_equal_parameters(per_rank: Mapping[str, int], budget: int) -> dict[str, int]:
    """The rank of each set whose number of parameters is nearest to a budget.

    Args:
      per_rank: parameters that one rank of a set costs, at least 1.
      budget: parameters that each set shall have, at least 1.

    Returns:
      A whole rank of at least 1 for each set; of two that are as near, the smaller.

    Raises:
      ValueError: the budget is below 1.

    >>> ranks_of_equal_parameters({"o_proj": 768, "all-linear": 6912}, budget=13824)
    {'o_proj': 18, 'all-linear': 2}
    """
    if budget < 1:
        raise ValueError(f"a budget of {budget} parameters: at least 1 is needed")
    ranks = {}
    for name, cost in per_rank.items():
        below = max(1, budget // cost)
        nearer = abs((below + 1) * cost - budget) < abs(below * cost - budget)
        ranks[name] = below + nearer
    return ranks


def rank_within_latency(ratios: Mapping[int, Ratio], limit: float) -> Fit:
    """The largest measured rank of a set whose median latency is within a limit.

    Args:
      ratios: rank -> ratio of its latency to the base's, with its interval; at least one.
      limit: such as 1.1 for ten percent more than the base.

    Raises:
      ValueError: nothing was measured.

    >>> rank_within_latency({8: (1.05, 1.04, 1.06), 32: (1.2, 1.1, 1.3)}, limit=1.1).rank
    8
    """
    if not ratios:
        raise ValueError("no latency was measured at any rank")
    fitting = [rank for rank, (ratio, _, _) in ratios.items() if ratio <= limit]
    shown = max(fitting) if fitting else min(ratios)
    ratio, low, high = ratios[shown]
    certain = high <= limit if fitting else low > limit
    return Fit(max(fitting, default=None), ratio, low, high, certain)
