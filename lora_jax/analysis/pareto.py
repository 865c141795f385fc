"""Which of several choices pays: the Pareto front of score against cost, and a recommendation."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lora_jax.evaluation.intervals import Interval, difference_interval, mean_interval
from lora_jax.evaluation.latency import median_interval


class Candidate(NamedTuple):
    """A choice that was tried: what it scored with each seed, and what it costs."""

    name: str
    scores: tuple[float, ...]
    """One a seed; higher is better."""
    costs: tuple[float, ...]
    """One a measurement, lower is better; of all candidates the n-th are measured together."""
    parameters: int = 0
    """Trainable parameters, which decide between costs that cannot be told apart."""

    @property
    def score(self) -> Interval:
        """Mean score and its interval over the seeds."""
        return mean_interval(self.scores)

    @property
    def cost(self) -> float:
        """Median cost."""
        return float(np.median(self.costs))

    @property
    def cost_interval(self) -> tuple[float, float]:
        """95 % interval of the median cost."""
        return median_interval(np.asarray(self.costs))


class Recommendation(NamedTuple):
    """The choice to make, and why, as one sentence."""

    name: str
    reason: str


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Choices that no other beats: none is as good or better in both and better in one.

    Args:
      candidates: The choices, in any order.

    Returns:
      The front by rising cost, and so by rising mean score.

    >>> tried = [("q", 0.7, 1), ("all", 0.9, 3), ("k", 0.6, 2)]
    >>> front = pareto_front([Candidate(name, (score,), (cost,)) for name, score, cost in tried])
    >>> [choice.name for choice in front]
    ['q', 'all']
    """
    points = [(candidate.score.mean, candidate.cost) for candidate in candidates]
    front = [
        candidate
        for candidate, point in zip(candidates, points, strict=True)
        if not any(_dominates(other, point) for other in points)
    ]
    return sorted(front, key=lambda choice: choice.cost)


def recommend(
    candidates: Sequence[Candidate], *, cost: str = "cost", format_cost: str = "{:.3g}"
) -> Recommendation:
    """Choose the cheapest candidate whose score cannot be told from the best.

    Two scores can be told apart when the 95 % interval of the difference of their means (Welch)
    excludes zero. Two costs can be told apart when the 95 % interval of the median of their
    ratios, measurement by measurement, excludes one; where they cannot, fewer parameters win.

    Args:
      candidates: The choices, at least one.
      cost: What the cost is, for the sentence.
      format_cost: How to write a cost, such as "{:.2f} ms".

    Returns:
      The name of the choice and the reason as one sentence.

    Raises:
      ValueError: If there is no candidate, or costs cannot be paired.

    >>> choices = [Candidate("q", (0.79, 0.80), (1.0,)), Candidate("all", (0.80, 0.81), (3.0,))]
    >>> recommend(choices).name
    'q'
    """
    if not candidates:
        raise ValueError("nothing to recommend: there is no candidate")
    best = max(candidates, key=lambda choice: choice.score.mean)
    if math.isnan(best.score.low):
        return Recommendation(best.name, _reason_single_seed(best))
    equals = [choice for choice in candidates if _is_as_good(choice, best)]
    cheapest = min(equals, key=lambda choice: choice.cost)
    tied = [choice for choice in equals if _costs_the_same(choice, cheapest)]
    chosen = min(tied, key=lambda choice: (choice.parameters, choice.cost))
    price = f"{cost} {format_cost.format(chosen.cost)}"
    if len(candidates) == 1:
        reason = f"{best.name} is the only choice; it scores {_show(best.score)} ({price})."
        return Recommendation(best.name, reason)
    return Recommendation(chosen.name, _reason(chosen, best, len(equals), len(tied), price))


def recommend_within(
    candidates: Sequence[Candidate],
    limit: float,
    *,
    cost: str = "cost",
    format_cost: str = "{:.3g}",
) -> Recommendation | None:
    """Recommend among the candidates whose median cost is within a budget.

    Args:
      candidates: The choices, in any order.
      limit: The highest cost that is allowed.
      cost: As of `recommend`.
      format_cost: As of `recommend`.

    Returns:
      What `recommend` says of those that are left; None if none is.

    >>> choices = [Candidate("q", (0.70, 0.71), (1.0,)), Candidate("all", (0.9, 0.91), (3.0,))]
    >>> [recommend_within(choices, limit).name for limit in (2, 4)]
    ['q', 'all']
    """
    left = [choice for choice in candidates if choice.cost <= limit]
    return recommend(left, cost=cost, format_cost=format_cost) if left else None


def _dominates(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether one (score, cost) is no worse than another in both, and not the same."""
    return first != second and first[0] >= second[0] and first[1] <= second[1]


def _is_as_good(candidate: Candidate, best: Candidate) -> bool:
    # A single seed has no interval. It proves nothing, so it is never as good as the best.
    return candidate is best or difference_interval(best.scores, candidate.scores).low <= 0


def _costs_the_same(candidate: Candidate, cheapest: Candidate) -> bool:
    if len(candidate.costs) != len(cheapest.costs):
        raise ValueError(
            f"{candidate.name} has {len(candidate.costs)} costs and {cheapest.name} "
            f"{len(cheapest.costs)}: only costs measured together can be compared"
        )
    low, _ = median_interval(np.divide(candidate.costs, cheapest.costs))
    return low <= 1


def _reason_single_seed(best: Candidate) -> str:
    return (
        f"{best.name} scored highest ({best.score.mean:.3f}), but with a single seed no difference "
        "can be told from chance: run more seeds before relying on it."
    )


def _reason(chosen: Candidate, best: Candidate, equals: int, tied: int, price: str) -> str:
    if equals == 1:
        return (
            f"{best.name} scores {_show(best.score)}, and the difference to every other choice "
            f"is larger than chance explains ({price})."
        )
    merit = f"has the lowest {price}"
    if tied > 1:
        merit = f"trains the fewest parameters of the {tied} that cost the least ({price})"
    if chosen is best:
        return f"{chosen.name} scores best, {_show(chosen.score)}, and {merit}."
    return (
        f"{chosen.name} scores {_show(chosen.score)}, which {len(chosen.scores)} seeds cannot tell "
        f"from the best ({best.name}, {_show(best.score)}), and of {equals} such choices it "
        f"{merit}."
    )


def _show(score: Interval) -> str:
    return f"{score.mean:.3f} ± {score.half_width:.3f}"
