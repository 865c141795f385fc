"""What to use: of each control's sets, and within budgets of parameters and of latency."""

from __future__ import annotations

from typing import NamedTuple

from ml_collections import ConfigDict

from experiments.target_modules_outcome import Outcomes, Study, main_latency
from lora_jax.analysis import Recommendation, recommend, recommend_within


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
