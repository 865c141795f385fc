"""What the target-module study finds out about a set of targets, and what it recommends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lora_jax.analysis import Candidate, Recommendation, recommend, recommend_within
from lora_jax.evaluation import Interval, Latency, ResponseTimes, mean_interval

BASE, HEAD, FULL = REFERENCES = ("base as it is", "head only", "full fine-tuning")
"""What sets are compared with: where there is no head, the base without any training."""


class Outcome(NamedTuple):
    """What a choice achieved, one score a seed, and what it costs.

    Attributes:
      name: "o_proj+fc2", or one of `REFERENCES`.
      rank: of its adapter; None of a reference.
      parameters: of its adapter, or of what a reference trains; a head beside it not counted.
      rate: its learning rate.
      scores: on the test set, one a seed; of an adapter once it is merged.
      unmerged_score: the first seed's with the adapter beside the frozen weights, where asked for.
      losses: of training, one list a seed.
      unmerged: times with the adapter beside the frozen weights.
      merged: times with the adapter in them.
      base: times of the base alone, in the same rounds.
    """

    name: str
    rank: int | None
    parameters: int
    rate: float
    scores: tuple[float, ...]
    unmerged_score: float | None
    losses: Sequence[Sequence[float]]
    unmerged: ResponseTimes
    merged: ResponseTimes
    base: ResponseTimes

    @property
    def label(self) -> str:
        """Name and rank."""
        return self.name if self.rank is None else f"{self.name} r{self.rank}"

    @property
    def score(self) -> Interval:
        """Mean score and its interval over the seeds."""
        return mean_interval(self.scores)

    @property
    def slower(self) -> tuple[float, float, float]:
        """Latency over the base's: TPOT, or TTFT of a model that writes nothing."""
        return main_latency(self.unmerged).ratio_to(main_latency(self.base))

    def by_latency(self) -> Candidate:
        """Score against milliseconds, unmerged."""
        costs = tuple(1000 * main_latency(self.unmerged).seconds)
        return Candidate(self.label, self.scores, costs, self.parameters)

    def by_parameters(self) -> Candidate:
        """Score against parameters."""
        return Candidate(self.label, self.scores, (float(self.parameters),), self.parameters)


Outcomes = Sequence[Outcome]
Study = Mapping[str, Outcomes]
"""The outcomes of each control, those of sets of targets alone."""


def main_latency(times: ResponseTimes) -> Latency:
    """TPOT where texts are written, TTFT where they are labelled."""
    return times.first if times.token is None else times.token


def find(outcomes: Outcomes, name: str) -> Outcome | None:
    """The outcome of a set; None if it was not tried."""
    return next((outcome for outcome in outcomes if outcome.name == name), None)


def difference(first: Outcome, second: Outcome) -> Interval:
    """How much better the first is: the mean over the seeds, which both share, and its interval."""
    return mean_interval(np.subtract(first.scores, second.scores).tolist())


class Budget(NamedTuple):
    """What to use within a budget, of all that was measured under any control."""

    budget: str
    recommended: str
    reason: str


def choose(control: str, outcomes: Outcomes) -> Recommendation:
    """Recommends a set: by latency, or where latencies are equal by parameters."""
    if control == "latency":
        cheap = [outcome.by_parameters() for outcome in outcomes]
        return recommend(cheap, cost="number of parameters", format_cost="{:,.0f}")
    return recommend(
        [outcome.by_latency() for outcome in outcomes], cost="latency", format_cost="{:.2f} ms"
    )


def recommend_budgets(config: ConfigDict, study: Study) -> list[Budget]:
    """For each budget of parameters and of latency, what to use of all that was measured."""
    every = {o.label: o for outcomes in study.values() for o in outcomes}.values()
    base = 1000 * main_latency(next(iter(every)).base).median
    found = []
    for limit in config.budgets.parameters:
        candidates = [outcome.by_parameters() for outcome in every]
        options = {"cost": "number of parameters", "format_cost": "{:,.0f}"}
        found.append((f"{limit:,} parameters", recommend_within(candidates, limit, **options)))
    for over in config.budgets.over_base:
        candidates = [outcome.by_latency() for outcome in every]
        limit = base * (1 + over)
        options = {"cost": "latency", "format_cost": "{:.3g} ms"}
        name = f"base + {over:.0%} unmerged latency ({limit:.3g} ms)"
        found.append((name, recommend_within(candidates, limit, **options)))
    none = Recommendation("none", "No set that was tried keeps within it.")
    return [Budget(name, *(choice or none)) for name, choice in found]


def sentence(chosen: Recommendation) -> str:
    """Writes a recommendation."""
    return f"Recommended: {chosen.name}. {chosen.reason}"
