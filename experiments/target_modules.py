"""Which modules should LoRA adapt? Sets of target modules under three controls.

    python -m experiments.target_modules --config=configs/quickstart.py --workdir=runs/quickstart

Sets are compared at equal rank, at an equal number of parameters, and at an equal measured latency.
Each is trained with several seeds on one frozen pretrained base, many adapters at a time in one
compiled program, beside two references: the head alone (of a decoder, the base as it is), and full
fine-tuning. Learning rates are chosen for each set by the loss on a validation part; the test set
is looked at only afterwards. What is finished is kept: the same command goes on from there. Writes
config.json, latency.json, metrics.jsonl, results.json and report.html.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from experiments.launch import launch
from experiments.settings import check_counts, check_seeds, listed
from experiments.subject import Counts, Subject, read
from experiments.target_modules_choices import (
    Rate,
    find_rate,
    keep_or_measure,
    ranks_before_timing,
    ranks_of_equal_latency,
    rates_chosen_before,
    rates_of,
    timed_ranks,
)
from experiments.target_modules_outcomes import Outcome
from experiments.target_modules_report import describe, print_study, write_report
from experiments.target_modules_runs import BASE, FULL, HEAD, Lifts, Log, Run, Trainer
from lora_jax import training
from lora_jax.data.names import known
from lora_jax.evaluation import ResponseTimes
from lora_jax.training.progress import peak_memory

CONTROLS = ("rank", "parameters", "latency")


def defaults() -> ConfigDict:
    """Every setting of the study; a config overrides some of them."""
    config = ConfigDict()
    config.task = ConfigDict({"name": "docstrings"})
    config.task.options = ConfigDict({"train_per_topic": 100, "test_per_topic": 40})
    # The task's own; or another that it has; or "token_accuracy", of the tokens of given answers.
    config.metric = ""
    config.model = ConfigDict({"name": "", "path": "", "sha256": ""})
    config.model.update(dtype="float32", scan=True)
    config.pooling = "mean"
    config.length = 32  # tokens of an example
    config.new_tokens = 128  # at most, of an answer that is written to be scored
    config.train_examples = 4000  # at most; 0: all
    config.validation_examples = 200
    config.test_examples = 0  # at most; 0: all

    config.target_sets = ("q_proj+v_proj", "o_proj", lora.ALL_LINEAR)
    config.controls = ("rank",)  # and "parameters", "latency"
    config.method = ConfigDict({"rank": 8, "alpha": 16.0, "dropout": 0.0})
    # As many parameters as this set has at this rank, and at most so much slower than the base.
    config.equal_parameters = ConfigDict({"targets": lora.ALL_LINEAR, "rank": 4})
    config.equal_latency = ConfigDict({"over_base": 0.1, "ranks": (2, 8, 32)})
    config.budgets = ConfigDict({"parameters": (40_000, 100_000, 200_000)})
    config.budgets.over_base = (0.05, 0.1, 0.2)

    config.seeds = (0, 1, 2)
    config.steps = 100
    config.batch_size = 16
    config.optimizers = ConfigDict()
    config.optimizers.lora = _adamw(head=5e-3)
    config.optimizers.head = _adamw()
    config.optimizers.full = _adamw(head=5e-3)
    # To choose from, for each set and reference; of a single one nothing is to be chosen.
    config.rates = ConfigDict({"lora": (1e-3,), "head": (5e-3,), "full": (2e-4,)})
    config.rate_seeds = (0,)
    config.rates_of = ""  # directory of a finished study whose choice of rates is taken over
    config.members = 9  # adapters that are trained together
    config.evaluation_batch_size = 96
    config.latency = ConfigDict({"batch_size": 1, "rounds": 50, "new_tokens": 32})
    config.lock()
    return config


def _adamw(head: float | None = None) -> ConfigDict:
    """The rate is that of the run; a head, which starts from nothing, has one of its own."""
    config = ConfigDict({"name": "adamw", "schedule": "linear"})
    config.update(warmup=0.1, weight_decay=0.01, clip=1.0)
    config.groups = ConfigDict({"head": {"learning_rate": head}} if head else {})
    return config


def main(config: ConfigDict, workdir: Path | None) -> None:
    """Runs the study, or prints its plan if there is no workdir."""
    started, console = time.perf_counter(), Console(highlight=False, soft_wrap=True)
    check(config)

    # ---- The task, the frozen base, and the ranks of each set that need no measurement
    subject = load(config)
    sets, controls = listed(config.target_sets), listed(config.controls)
    lifts, compared = Lifts(config, subject), references(subject)
    ranks = ranks_before_timing(config, sets, lifts)
    rates = rates_chosen_before(config, [*sets, *compared])
    if workdir is None:
        print_plan(console, config, subject, lifts, ranks)
        return
    training.open_workdir(workdir, config.to_dict())

    # ---- Latency of every set at several ranks, and from it the ranks of equal latency
    timed = timed_ranks(config, sets, controls, ranks)
    times = keep_or_measure(workdir / "latency.json", config, subject, lifts, timed)
    if "latency" in controls:
        ranks["latency"] = ranks_of_equal_latency(config, timed, times)
        console.print(f"ranks of equal latency: {ranks['latency']}")

    # ---- Learning rates: by the loss on the validation part, at equal rank
    choices = [(name, config.method.rank) for name in sets] + [(name, 0) for name in compared]
    choices = [choice for choice in choices if choice[0] not in rates]
    with Log.explained(workdir / "metrics.jsonl", console) as log:
        trainer = Trainer(config, subject, lifts, log)
        trainer.train(
            [
                Run(name, rank, rate, seed, "validation")
                for name, rank in choices
                if len(rates_of(config, name)) > 1
                for rate in rates_of(config, name)
                for seed in config.rate_seeds
            ]
        )
        rates |= {name: find_rate(config, log, name) for name, _ in choices}

        # ---- Each control's sets with every seed, and the references
        for of in (*(ranks[control] for control in controls), dict.fromkeys(compared, 0)):
            trainer.train(
                [
                    Run(name, rank, rates[name].chosen, seed, "test")
                    for name, rank in of.items()
                    for seed in config.seeds
                ]
            )

    # ---- What came out
    make = partial(make_outcome, config, subject, lifts, log, rates, times)
    study = {c: [make(name, rank) for name, rank in ranks[c].items()] for c in controls}
    others = [make(name, 0) for name in compared]
    write_report(workdir, config, subject, study, others, rates, times)
    print_study(console, config, subject, study, others)
    seconds, memory = time.perf_counter() - started, peak_memory() / 2**30
    console.print(f"{workdir / 'report.html'} | {seconds:.0f} s | {memory:.2f} GiB at most")


def check(config: ConfigDict) -> None:
    """Refuses what could only fail after hours."""
    for field in ("seeds", "rate_seeds"):
        check_seeds(config[field], field)
    for field, examples in (("controls", CONTROLS), ("target_sets", ("o_proj", "fc1+fc2"))):
        if not listed(config[field]):
            raise ValueError(f"no {field}: name one or more, such as {', '.join(examples)}")
    for control in listed(config.controls):
        known(control, CONTROLS, "control")
    check_counts(config, "steps", "members", "latency.rounds")
    for kind, rates in config.rates.items():
        if not rates or min(rates) <= 0:
            raise ValueError(f"rates.{kind} = {rates}: name one or more positive learning rates")


def load(config: ConfigDict) -> Subject:
    """Reads the task and the base.

    Raises:
      ValueError: learning rates are to be chosen, and there is nothing to choose them by.
    """
    asked = (config.train_examples, config.validation_examples, config.test_examples)
    subject = read(config, Counts(*asked), generates=True)
    chooses = not config.rates_of and any(len(rates) > 1 for rates in config.rates.values())
    if chooses and not subject.validation:
        raise ValueError(
            "validation_examples = 0: the task has no validation part to choose learning rates by, "
            "so some of its training examples are needed"
        )
    return subject


def references(subject: Subject) -> list[str]:
    """What the sets are compared with: a decoder has no head that could be trained alone."""
    return [HEAD, FULL] if "head" in subject.objective.rules else [BASE, FULL]


def make_outcome(
    config: ConfigDict,
    subject: Subject,
    lifts: Lifts,
    log: Log,
    rates: Mapping[str, Rate],
    times: Mapping[str, ResponseTimes],
    name: str,
    rank: int,
) -> Outcome:
    """Gathers the runs of a choice, one a seed, and what it costs."""
    rate = rates[name].chosen
    runs = [log.runs[Run(name, rank, rate, seed, "test")] for seed in config.seeds]
    base = times["base"]
    return Outcome(
        name=name,
        rank=rank or None,
        parameters=lifts.parameters(name, rank),
        rate=rate,
        scores=tuple(rows[-1][f"eval/{subject.metric}"] for rows in runs),
        unmerged_score=runs[0][-1].get(f"unmerged/{subject.metric}"),
        losses=[[row["loss"] for row in rows[:-1]] for rows in runs],
        unmerged=times.get(f"{name} r{rank}", base),
        merged=times.get(f"{name}, merged", base),
        base=base,
    )


def print_plan(
    console: Console,
    config: ConfigDict,
    subject: Subject,
    lifts: Lifts,
    ranks: Mapping[str, Mapping[str, int]],
) -> None:
    """Says what would be done: the task, the base, the ranks of each control, and the sites."""
    console.print(describe(subject), markup=False)
    params, sets = lora.count_parameters(subject.base.params), ranks["rank"]
    console.print(f"base: {config.model.name}, {params:,} parameters")
    controls, seeds = listed(config.controls), len(config.seeds)
    console.print(
        f"{len(sets)} sets x {seeds} seeds, {config.members} at a time, {config.steps} steps of "
        f"{config.batch_size} examples of {config.length} tokens; controls: {', '.join(controls)}"
    )
    for control, of in ranks.items():
        found = ", ".join(f"{n} r{r} ({lifts.parameters(n, r):,})" for n, r in of.items())
        console.print(f"ranks and parameters at equal {control}: {found}")
    if "latency" in controls:
        console.print(f"ranks at equal latency: measured, of {config.equal_latency.ranks}")
    for name, rank in sets.items():
        console.print(str(lifts[name, rank]), markup=False)


if __name__ == "__main__":
    launch(main)
