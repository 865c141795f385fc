"""What `target_modules` leaves: a table in the terminal, results.json and report.html."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict
from rich.console import Console

from lora_jax.analysis.pareto import Candidate, Recommendation, recommend
from lora_jax.data import Task
from lora_jax.evaluation import Interval, Latency
from lora_jax.reports import (
    Column,
    Curve,
    Section,
    curves_plot,
    html,
    installed_versions,
    print_table,
    render_page,
    tradeoff_plot,
    write_page,
    write_results,
)
from lora_jax.reports.tables import plus_minus

REFERENCES = ("head only", "full fine-tuning")  # what no set of targets is recommended against

TRADEOFF = (
    "Up and to the left is better. Bars are 95 % intervals: of the mean score over the seeds, and "
    "of the median latency. Hollow: the references, which keep the latency of the base."
)
NOTES = (
    "± is the 95 % t-interval of the mean over {seeds} seeds; a seed sets the new weights and the "
    "order of the examples. A step takes {batch} examples of {length} tokens; its time is the "
    "median over all runs of a set, first steps left out. Latency is the median time of a batch of "
    "{rows}, all sets timed in turn; unmerged, the adapter stands beside the frozen "
    "weights; merged, it is added to them. Trainable parameters include the head's."
)
CURVES = "Training loss over {window} steps: the mean over the seeds, and their range."


class Outcome(NamedTuple):
    """What a choice achieved, one score and one list of losses a seed, and what it costs."""

    name: str
    trainable: int
    scores: tuple[float, ...]
    score: Interval
    step_seconds: float
    unmerged: Latency
    merged: Latency
    losses: Sequence[Sequence[float]]


def choose(outcomes: Sequence[Outcome]) -> Recommendation:
    """Recommends one of the sets of targets."""
    sets, _ = candidates_and_references(outcomes)
    return recommend(sets, cost="latency", format_cost="{:.2f} ms")


def candidates_and_references(
    outcomes: Sequence[Outcome],
) -> tuple[list[Candidate], list[Candidate]]:
    """Splits the sets of targets from what they are compared with."""
    sets = [as_candidate(outcome) for outcome in outcomes if outcome.name not in REFERENCES]
    references = [as_candidate(outcome) for outcome in outcomes if outcome.name in REFERENCES]
    return sets, references


def as_candidate(outcome: Outcome) -> Candidate:
    """Score against milliseconds with the adapter beside the base."""
    costs = tuple(1000 * outcome.unmerged.seconds)
    return Candidate(outcome.name, outcome.scores, costs, outcome.trainable)


def print_outcomes(console: Console, task: Task, outcomes: Sequence[Outcome]) -> None:
    """Prints the table and the recommendation."""
    print_table(outcomes, columns_of(task), console=console)
    chosen = choose(outcomes)
    console.print(f"Recommended: {chosen.name}. {chosen.reason}", markup=False)


def columns_of(task: Task) -> list[Column]:
    """The columns of the table."""
    return [
        Column("name", "targets"),
        Column("trainable", "trainable", "{:,}"),
        Column("score", task.metric, plus_minus(3)),
        Column("step_seconds", "step ms", lambda seconds: f"{1000 * seconds:.0f}"),
        Column("unmerged", "unmerged ms", _milliseconds),
        Column("merged", "merged ms", _milliseconds),
    ]


def write_report(
    workdir: Path, config: ConfigDict, task: Task, outcomes: Sequence[Outcome]
) -> None:
    """Writes results.json and report.html."""
    chosen, versions = choose(outcomes), installed_versions()
    results = {"recommended": chosen, "outcomes": outcomes, "versions": versions}
    write_results(workdir / "results.json", {**results, "config": config.to_dict()})
    notes = NOTES.format(
        seeds=len(config.seeds),
        batch=config.batch_size,
        length=config.length,
        rows=config.latency.batch_size,
    )
    sets, references = candidates_and_references(outcomes)
    tradeoff = tradeoff_plot(
        sets,
        references=references,
        x_label=f"latency of a batch of {config.latency.batch_size}, unmerged, ms",
        y_label=task.metric,
        recommended=chosen.name,
    )
    steps = range(1, config.steps + 1)
    window = max(1, config.steps // 15)  # the loss of one small batch says little
    # In the order, and so in the colours, of the plot above.
    ordered = sorted(outcomes, key=lambda outcome: outcome.name in REFERENCES)
    curves = curves_plot(
        [Curve(outcome.name, steps, outcome.losses) for outcome in ordered], window=window
    )
    table = html.table(outcomes, columns_of(task), highlight=chosen.name)
    repeat = shlex.join(["python", "-m", "experiments.target_modules", *sys.argv[1:]])
    page = render_page(
        "Which modules should LoRA adapt?",
        [
            Section("Results", [table, html.paragraph(notes), html.figure(tradeoff, TRADEOFF)]),
            Section(
                "Learning curves",
                [html.figure(curves, CURVES.format(window=window))],
            ),
            Section("Task", [html.paragraph(task.about)]),
            Section(
                "How to repeat it",
                [html.command(repeat), html.settings(config.to_dict()), html.fields(versions)],
            ),
        ],
        lead=f"{config.model.name} on {task.name}: {len(task.train):,} training and "
        f"{len(task.test):,} test examples, {config.steps} steps of {config.batch_size}.",
        finding=f"Recommended: {chosen.name}. {chosen.reason}",
    )
    write_page(workdir / "report.html", page)


def _milliseconds(latency: Latency) -> str:
    return f"{1000 * latency.median:.2f}"
