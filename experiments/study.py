"""The runs of a study: which learning rate each choice takes, every seed at it, and all are kept.

A learning rate is chosen by the validation part alone. What is finished stands in metrics.jsonl, a
line a run, and is not run again.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from experiments.joint import FULL, LORA, Choice, Outcome, Run, Together, adapt
from experiments.settings import check_seeds, listed
from experiments.subject import Subject
from lora_jax.analysis.optimum import choose_rate
from lora_jax.reports import Column, Curve, plus_minus
from lora_jax.reports.results import to_plain
from lora_jax.training.metrics import read_rows
from lora_jax.training.workdir import write_text

Outcomes = dict[tuple[str, float, int], Outcome]


class Found(NamedTuple):
    """What a study found.

    Attributes:
      outcomes: of every run.
      rates: choice -> the learning rate that was best on the validation part.
      scores: choice -> the test scores of all seeds at that rate, in their order.
    """

    outcomes: Outcomes
    rates: dict[str, float]
    scores: dict[str, list[float]]

    def of(self, name: str, seeds: Sequence[int]) -> list[Outcome]:
        """The outcomes of a choice at its best rate."""
        return [self.outcomes[name, self.rates[name], seed] for seed in seeds]

    def curve(self, name: str, seeds: Sequence[int], title: str = "") -> Curve:
        """The training losses of a choice at its best rate."""
        losses = [run.losses for run in self.of(name, seeds)]
        return Curve(title or name, range(1, len(losses[0]) + 1), losses)


def defaults() -> ConfigDict:
    """The settings of training; every study has them."""
    config = ConfigDict()
    config.alpha = 16.0
    config.seeds = (0, 1, 2, 3, 4)
    config.search_seeds = 2  # the first so many choose the rate; the others see the best alone
    config.steps = 50
    config.rates = ConfigDict({LORA: (1e-3, 3e-3, 1e-2), FULL: (1e-4, 3e-4, 1e-3)})
    config.optimizer = ConfigDict({"name": "adamw", "schedule": "linear", "warmup": 0.1})
    config.optimizer.update(clip=1.0)
    # A new head learns at a rate of its own, the same for all; a decoder has none.
    config.optimizer.groups = ConfigDict()
    config.together = ConfigDict({LORA: 15, FULL: 5})  # runs, at most
    return config


def check(config: ConfigDict) -> None:
    """Refuses settings that no run could use.

    Raises:
      ValueError: it says which.
    """
    check_seeds(config.seeds)
    if not 1 <= config.search_seeds <= len(config.seeds):
        raise ValueError(
            f"search_seeds = {config.search_seeds}: a learning rate is chosen by 1 to "
            f"{len(config.seeds)} of the seeds"
        )
    if config.steps < 2:
        raise ValueError(f"steps = {config.steps}: at least 2 are needed")
    for kind in (LORA, FULL):
        rates = list(config.rates[kind])
        if not rates or min(rates) <= 0 or len(set(rates)) < len(rates):
            raise ValueError(f"rates.{kind} = {rates}: name one or more different positive rates")


def count_trained(subject: Subject, choice: Choice) -> int:
    """Parameters that a choice trains, but for a new head."""
    lifted = adapt(subject, choice)
    if lifted is None:
        return lora.count_parameters(subject.base.params)
    return sum(site.num_parameters for site in lifted.sites)


def names_of(config: ConfigDict) -> list[str]:
    """The sets of targets.

    Raises:
      ValueError: there are none.
    """
    names = listed(config.target_sets)
    if not names:
        raise ValueError("no target_sets: name one or more, such as o_proj, fc1+fc2")
    return names


def run_study(
    config: ConfigDict,
    subject: Subject,
    groups: Sequence[Sequence[Choice]],
    log: Path,
    console: Console,
) -> Found:
    """Chooses a learning rate for each choice, and trains it with every seed.

    Args:
      config: has the fields of `defaults`.
      subject: the base and its task.
      groups: choices; those of a group are trained together.
      log: a file of one JSON object for each finished run. What stands there is not run again.
      console: where progress is printed.

    Returns:
      What came out.
    """
    choices = [choice for group in groups for choice in group]
    outcomes = read_outcomes(log)
    if outcomes:
        console.print(f"{len(outcomes)} runs done before")
    search = list(config.seeds[: config.search_seeds])
    trainers = [(group, Together(config, subject, group)) for group in groups]

    def finish(trainer: Together, runs: Sequence[Run]) -> None:
        train_missing(config, trainer, outcomes, log, console, runs)

    for group, trainer in trainers:
        finish(trainer, [Run(c, r, s) for s in search for c in group for r in config.rates[c.kind]])
    rates = {
        choice.name: choose_rate(
            {
                rate: [outcomes[choice.name, rate, seed].validation for seed in search]
                for rate in config.rates[choice.kind]
            }
        )
        for choice in choices
    }
    for group, trainer in trainers:
        finish(trainer, [Run(c, rates[c.name], seed) for seed in config.seeds for c in group])
    scores = {
        name: [outcomes[name, rate, seed].test for seed in config.seeds]
        for name, rate in rates.items()
    }
    return Found(outcomes, rates, scores)


def train_missing(
    config: ConfigDict,
    trainer: Together,
    outcomes: Outcomes,
    log: Path,
    console: Console,
    wanted: Sequence[Run],
) -> None:
    """Trains the runs that are not there yet, and adds them to the outcomes and to the log."""
    missing = [run for run in dict.fromkeys(wanted) if run.key not in outcomes]
    for runs in in_parts(missing, config):
        started = time.perf_counter()
        found = trainer.train(runs, Console(quiet=True))
        with log.open("a") as file:
            for run, outcome in zip(runs, found, strict=True):
                outcomes[run.key] = outcome
                file.write(as_line(run, outcome))
        names = ", ".join(dict.fromkeys(run.choice.name for run in runs))
        seconds = time.perf_counter() - started
        console.print(f"{len(runs)} runs together, {seconds:.0f} s: {names}", markup=False)


def in_parts(runs: Sequence[Run], config: ConfigDict) -> Iterator[list[Run]]:
    """Runs that share a program, in parts of nearly one size, none too large."""
    alike = lambda run: run.choice.alike
    for (kind, *_), shared in itertools.groupby(sorted(runs, key=alike), alike):
        members = list(shared)
        parts = math.ceil(len(members) / config.together[kind])
        size = math.ceil(len(members) / parts)
        yield from (members[start : start + size] for start in range(0, len(members), size))


def read_outcomes(log: Path) -> Outcomes:
    """Reads the finished runs, and takes out of the log a line that a killed study left torn."""
    rows = read_rows(log)
    if log.exists():
        write_text(log, "".join(json.dumps(row) + "\n" for row in rows))
    return {
        (row["choice"], row["rate"], row["seed"]): Outcome(
            tuple(map(number, row["losses"])),
            number(row["validation"]),
            number(row["test"]),
            number(row["test_loss"]),
            {name: number(value) for name, value in row["left"].items()},
        )
        for row in rows
    }


def as_line(run: Run, outcome: Outcome) -> str:
    """A finished run as a line of the log."""
    row = dict(zip(("choice", "rate", "seed"), run.key, strict=True))
    return json.dumps({**row, **to_plain(outcome)}) + "\n"


def number(value: float | None) -> float:
    """JSON has no NaN: it is written as null."""
    return math.nan if value is None else value


def score_columns(about: Subject) -> list[Column]:
    """Columns of a table of scores: the metric, unless that is the loss, and the test loss."""
    score = [] if about.lower_is_better else [Column("score", about.metric, plus_minus(3))]
    return [*score, Column("test_loss", "test loss", plus_minus(3))]


def describe(config: ConfigDict, about: Subject, trained: Mapping[str, int]) -> str:
    """The plan: the subject, the choices with what each trains, and how often each is run."""
    rates = {kind: ", ".join(f"{rate:g}" for rate in config.rates[kind]) for kind in (LORA, FULL)}
    return "\n".join(
        [
            f"{about.name}: {about.about}",
            f"scored by {about.metric}; {lora.count_parameters(about.base.params):,} parameters",
            f"{config.steps} steps of {config.batch_size} examples of {config.length} tokens",
            f"learning rates of lora: {rates[LORA]}; of full fine-tuning: {rates[FULL]}",
            f"{config.search_seeds} of {len(config.seeds)} seeds choose the rate; all see the best",
            *(f"{name}: {count:,} parameters" for name, count in trained.items()),
        ]
    )
