"""What is chosen in the target-module study: ranks and learning rates, and in the end a set.

Ranks follow from the controls: the same for all, the same number of parameters, or the same
latency, which is measured. Rates are chosen by the loss on a validation part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

import lora_jax as lora
from experiments.settings import listed
from experiments.subject import Subject
from experiments.target_modules_outcomes import Outcomes, Study
from experiments.target_modules_runs import BASE, FULL, HEAD, Lifts, Log, beside, merge
from lora_jax.analysis import (
    Recommendation,
    rank_within_latency,
    ranks_of_equal_parameters,
    recommend,
    recommend_within,
)
from lora_jax.analysis.optimum import choose_rate
from lora_jax.data import TextEncoder, evaluation_batches
from lora_jax.data.names import known
from lora_jax.evaluation import Latency, ResponseTimes, measure_latency, measure_responses
from lora_jax.reports import read_results
from lora_jax.reports.saved_run import read_run
from lora_jax.training.workdir import write_json

CHOSEN = (
    "The learning rate is the one of {rates} with the lowest loss on a validation part, of "
    "{seeds}, chosen at equal rank and kept for other ranks: scaled by α/r, the best one hardly "
    "depends on the rank."
)


class Rate(NamedTuple):
    """The learning rate of a choice, and the validation loss of each that was tried."""

    chosen: float
    losses: Mapping[float, float]


def ranks_before_timing(
    config: ConfigDict, sets: Sequence[str], lifts: Lifts
) -> dict[str, dict[str, int]]:
    """The rank of each set under the controls that need no measurement."""
    ranks = {"rank": dict.fromkeys(sets, config.method.rank)}  # rates are chosen at it, too
    if "parameters" in listed(config.controls):
        model = config.equal_parameters
        budget = lifts.parameters(model.targets, model.rank)
        per_rank = {name: lifts.parameters(name, 1) for name in sets}
        ranks["parameters"] = ranks_of_equal_parameters(per_rank, budget)
    for of in ranks.values():
        for name, rank in of.items():
            lifts[name, rank]  # says what does not fit
    return ranks


def timed_ranks(
    config: ConfigDict,
    sets: Sequence[str],
    controls: Sequence[str],
    ranks: Mapping[str, Mapping[str, int]],
) -> dict[str, list[int]]:
    """At which ranks each set is timed: those of the controls, and a few to choose from."""
    few = config.equal_latency.ranks if "latency" in controls else ()
    return {name: sorted({*few, *(of[name] for of in ranks.values())}) for name in sets}


def keep_or_measure(
    path: Path,
    config: ConfigDict,
    subject: Subject,
    lifts: Lifts,
    timed: Mapping[str, Sequence[int]],
) -> dict[str, ResponseTimes]:
    """Times the base, every set at its ranks beside it, and every set merged into it."""
    if not path.exists():
        adapted = {f"{name} r{rank}": lifts[name, rank] for name in timed for rank in timed[name]}
        merged = {f"{name}, merged": lifts[name, timed[name][0]] for name in timed}
        print(f"timing the base, {len(adapted)} adapters beside it and {len(merged)} merged")
        time = time_labels if subject.encoder is None else time_answers
        found = time(config, subject, adapted, merged)
        seconds = {name: [t and t.seconds.tolist() for t in of] for name, of in found.items()}
        write_json(path, seconds)
    return {
        name: ResponseTimes(*(t and Latency(np.array(t)) for t in of))
        for name, of in json.loads(path.read_text()).items()
    }


def time_labels(
    config: ConfigDict,
    subject: Subject,
    adapted: Mapping[str, lora.Lifted],
    merged: Mapping[str, lora.Lifted],
) -> dict[str, ResponseTimes]:
    """Times an encoder at one forward pass."""
    learns = subject.objective
    batch, _ = next(evaluation_batches(subject.test, config.latency.batch_size))
    batch, plain = jax.device_put(batch), learns.predictor(None)
    start = lambda lifted: learns.init(lifted, jax.random.key(0))
    calls = {"base": partial(plain, start(None), batch)}
    for name, lifted in adapted.items():
        calls[name] = partial(learns.predictor(lifted), start(lifted), batch)
    for name, lifted in merged.items():
        calls[name] = partial(plain, merge(lifted, start(lifted)), batch)
    found = measure_latency(calls, rounds=config.latency.rounds)
    return {name: ResponseTimes(latency) for name, latency in found.items()}


def time_answers(
    config: ConfigDict,
    subject: Subject,
    adapted: Mapping[str, lora.Lifted],
    merged: Mapping[str, lora.Lifted],
) -> dict[str, ResponseTimes]:
    """Times a decoder at reading a prompt, and at writing with its cache."""
    base, new = subject.base, config.latency.new_tokens
    encoder = TextEncoder(tokenizer=base.tokenizer, length=config.length + new, truncate="middle")
    prompts, _, _ = encoder.prompts(list(subject.asked[:1]) * config.latency.batch_size, new)
    start = lambda lifted: subject.objective.init(lifted, jax.random.key(0))
    contenders: dict[str, Any] = {"base": (base.apply, base.params)}
    for name, lifted in adapted.items():
        contenders[name] = (beside(lifted), start(lifted))
    for name, lifted in merged.items():
        contenders[name] = (base.apply, merge(lifted, start(lifted))["params"])
    return measure_responses(
        contenders, base.config, prompts.ids, new_tokens=new, rounds=config.latency.rounds
    )


def ranks_of_equal_latency(
    config: ConfigDict, timed: Mapping[str, Sequence[int]], times: Mapping[str, ResponseTimes]
) -> dict[str, int]:
    """The largest rank of each set that keeps within the budget; sets that cannot are left out.

    Raises:
      ValueError: none can.
    """
    base, over, found = times["base"].main, config.equal_latency.over_base, {}
    least = np.inf
    for name, ranks in timed.items():
        ratios = {rank: times[f"{name} r{rank}"].main.ratio_to(base) for rank in ranks}
        least = min(least, *(ratio for ratio, _, _ in ratios.values()))
        fit = rank_within_latency(ratios, 1 + over)
        if fit.rank is not None:
            found[name] = fit.rank
    if not found:
        raise ValueError(
            f"equal_latency.over_base = {over}: every set at every rank is slower than that; the "
            f"fastest is {least - 1:.2f} over the base"
        )
    return found


def rates_of(config: ConfigDict, name: str) -> Sequence[float]:
    """The learning rates that a choice may have."""
    if name == BASE:
        return (0.0,)  # it does not train
    return config.rates[{HEAD: "head", FULL: "full"}.get(name, "lora")]


def find_rate(config: ConfigDict, log: Log, name: str) -> Rate:
    """The rate with the lowest validation loss, which is steadier than a metric on few examples.

    It is chosen at equal rank and kept for the other ranks: scaled by α/r, an adapter's best rate
    hardly depends on its rank (Schulman et al. 2025, "LoRA Without Regret").
    """
    rates = rates_of(config, name)
    if len(rates) == 1:
        return Rate(rates[0], {})
    found: dict[float, list[float]] = {rate: [] for rate in rates}
    for run, rows in log.runs.items():
        if run.part == "validation" and run.name == name:
            loss = rows[-1]["validation/loss"]  # null in the log of a run that diverged
            found[run.rate].append(np.nan if loss is None else loss)
    return Rate(choose_rate(found), {rate: float(np.mean(own)) for rate, own in found.items()})


def rates_chosen_before(config: ConfigDict, names: Sequence[str]) -> dict[str, Rate]:
    """The rates that another study, of a task with a like base, has chosen; none if none is named.

    Raises:
      ValueError: the directory is no finished run of this experiment, or lacks one of the names.
    """
    if not config.rates_of:
        return {}
    run = read_run(Path(config.rates_of))
    if run.experiment != "target_modules":
        raise ValueError(
            f"rates_of = {config.rates_of!r} is a run of {run.experiment}, not of target_modules"
        )
    found = read_results(run.directory / "results.json")["rates"]
    rates = {}
    for name in names:
        if name != BASE:  # it does not train
            rate = found[known(name, found, f"choice with a rate in {config.rates_of}")]
            number = lambda loss: np.nan if loss is None else loss  # JSON has no nan
            losses = {float(tried): number(loss) for tried, loss in rate["losses"].items()}
            rates[name] = Rate(rate["chosen"], losses)
    return rates


def describe_choice(config: ConfigDict) -> str:
    """Says how learning rates are chosen, for the report."""
    if config.rates_of:
        return f"Learning rates are those that the study in {config.rates_of} has chosen."
    if len(config.rates.lora) == 1:
        return "The learning rate is given."
    seeds = len(config.rate_seeds)
    return CHOSEN.format(
        rates=", ".join(f"{rate:g}" for rate in config.rates.lora),
        seeds=f"{seeds} {'seed' if seeds == 1 else 'seeds'}",
    )


class Budget(NamedTuple):
    """What to use within a budget, of all that was measured under any control."""

    budget: str
    recommended: str
    reason: str


BY_PARAMETERS = {"cost": "number of parameters", "format_cost": "{:,.0f}"}


def choose(control: str, outcomes: Outcomes) -> Recommendation:
    """Recommends a set: by latency, or where latencies are equal by parameters."""
    if control == "latency":
        return recommend([outcome.by_parameters() for outcome in outcomes], **BY_PARAMETERS)
    timed = [outcome.by_latency() for outcome in outcomes]
    return recommend(timed, cost="latency", format_cost="{:.2f} ms")


def recommend_budgets(config: ConfigDict, study: Study) -> list[Budget]:
    """For each budget of parameters and of latency, what to use of all that was measured."""
    every = {o.label: o for outcomes in study.values() for o in outcomes}.values()
    base = 1000 * next(iter(every)).base.main.median
    found = []
    for limit in config.budgets.parameters:
        sizes = [outcome.by_parameters() for outcome in every]
        found.append((f"{limit:,} parameters", recommend_within(sizes, limit, **BY_PARAMETERS)))
    for over in config.budgets.over_base:
        timed, most = [outcome.by_latency() for outcome in every], base * (1 + over)
        choice = recommend_within(timed, most, cost="latency", format_cost="{:.3g} ms")
        found.append((f"base + {over:.0%} unmerged latency ({most:.3g} ms)", choice))
    none = Recommendation("none", "No set that was tried keeps within it.")
    return [Budget(name, *(choice or none)) for name, choice in found]


def sentence(chosen: Recommendation) -> str:
    """Writes a recommendation."""
    return f"Recommended: {chosen.name}. {chosen.reason}"
