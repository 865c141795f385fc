"""What `weight_types` leaves: a table in the terminal, results.json and report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from rich.console import Console

from experiments.joint import Choice
from experiments.study import Found, score_columns
from experiments.subject import Subject
from lora_jax import reports
from lora_jax.evaluation import Interval, mean_interval, paired_interval
from lora_jax.reports import (
    Bar,
    Column,
    Section,
    html,
    intervals_plot,
    plus_minus,
    print_table,
    published_rows,
)

NOTES = (
    "Each set has the rank nearest to {budget:,} parameters. ± is the 95 % t-interval of the mean "
    "over {seeds} seeds. The learning rate of each row is the best of {rates} by the loss on "
    "{validation} validation examples, of {search} seeds; α = {alpha:g}."
)
AGAINST = (
    "Difference to {best}, the best, seed by seed: mean and 95 % interval. A bar that crosses zero "
    "cannot be told from it. {seeds} seeds, no correction for several comparisons."
)
PUBLISHED = (
    "Accuracies in percent of GPT-3 175B with 18 million parameters, to compare the order with. "
    "The MLP was not tried there."
)

# Hu et al. 2021, table 5: WikiSQL and MNLI accuracy in percent.
TABLE_5 = (
    ("Wq", 8, 70.4, 91.0),
    ("Wk", 8, 70.0, 90.8),
    ("Wv", 8, 73.0, 91.0),
    ("Wo", 8, 73.2, 91.3),
    ("Wq, Wk", 4, 71.4, 91.3),
    ("Wq, Wv", 4, 73.7, 91.3),
    ("Wq, Wk, Wv, Wo", 2, 73.7, 91.7),
)
TABLE_5_COLUMNS = (
    Column("name", "GPT-3, weights"),
    Column("rank", "rank"),
    Column("wikisql", "WikiSQL, %"),
    Column("mnli", "MNLI, %"),
)


class Row(NamedTuple):
    """A set of weights; `behind` is its score minus that of the best, paired by seed."""

    name: str
    rank: int
    trained: int
    rate: float
    scores: list[float]
    score: Interval
    test_loss: Interval
    behind: Interval


def rows_of(
    config: ConfigDict,
    about: Subject,
    group: Sequence[Choice],
    trained: Mapping[str, int],
    found: Found,
) -> list[Row]:
    """One row a set of weights."""
    best = best_of(about, found)
    rows = []
    for choice in group:
        name, scores = choice.name, found.scores[choice.name]
        losses = [run.test_loss for run in found.of(name, config.seeds)]
        rows.append(
            Row(
                *(name, choice.rank, trained[name], found.rates[name], scores),
                score=mean_interval(scores),
                test_loss=mean_interval(losses),
                behind=paired_interval(scores, found.scores[best]),
            )
        )
    return rows


def best_of(about: Subject, found: Found) -> str:
    """The set of the best mean score."""
    means = {name: mean_interval(scores).mean for name, scores in found.scores.items()}
    return (min if about.lower_is_better else max)(means, key=lambda name: means[name])


def print_types(
    console: Console,
    config: ConfigDict,
    about: Subject,
    group: Sequence[Choice],
    trained: Mapping[str, int],
    found: Found,
) -> None:
    """Prints the table and the finding."""
    rows = rows_of(config, about, group, trained, found)
    print_table(rows, columns_of(about), console=console)
    console.print(finding_of(about, rows), markup=False)


def columns_of(about: Subject) -> list[Column]:
    """The columns of the table."""
    return [
        Column("name", "targets"),
        Column("rank", "rank"),
        Column("trained", "parameters", "{:,}"),
        Column("rate", "learning rate", "{:g}"),
        *score_columns(about),
        Column("behind", f"{about.metric} minus the best's", plus_minus(3)),
    ]


def finding_of(about: Subject, rows: Sequence[Row]) -> str:
    """The best set, and those that the seeds cannot tell from it."""
    ordered = sorted(rows, key=lambda row: row.score.mean, reverse=not about.lower_is_better)
    best, others = ordered[0], ordered[1:]
    alike = [row.name for row in others if row.behind.contains(0)]
    rest = f"not told from it: {', '.join(alike)}" if alike else "told from all others"
    last = f"; the worst is {others[-1].name}, {others[-1].score.mean:.3f}" if others else ""
    first = f"{best.name} at rank {best.rank}, {about.metric} {best.score.mean:.3f}"
    return f"Best: {first}, {rest}{last}."


def write_report(
    workdir: Path,
    config: ConfigDict,
    about: Subject,
    budget: int,
    group: Sequence[Choice],
    trained: Mapping[str, int],
    found: Found,
) -> None:
    """Writes results.json and report.html."""
    rows = rows_of(config, about, group, trained, found)
    best, finding = best_of(about, found), finding_of(about, rows)
    notes = NOTES.format(
        budget=budget,
        seeds=len(config.seeds),
        rates=", ".join(f"{rate:g}" for rate in config.rates.lora),
        validation=config.examples.validation,
        search=config.search_seeds,
        alpha=config.alpha,
    )
    published = published_rows("Hu et al. 2021, table 5", TABLE_5_COLUMNS, TABLE_5)
    bars = [Bar(row.name, row.behind) for row in rows if row.name != best]
    pieces = [html.table(rows, columns_of(about), highlight=best), html.paragraph(notes)]
    if bars:
        plot = intervals_plot(bars, x_label=f"{about.metric} minus that of {best}", reference=0.0)
        pieces.append(html.figure(plot, AGAINST.format(best=best, seeds=len(config.seeds))))
    results: dict[str, Any] = {
        "task": config.task.name,
        "metric": about.metric,
        "budget": budget,
        "outcomes": rows,
    }
    reports.write_report(
        workdir,
        "weight_types",
        config.to_dict(),
        results,
        title="Which weights should share a fixed number of parameters?",
        sections=[
            Section("Results", pieces),
            Section(
                "Published", [html.table(published, TABLE_5_COLUMNS), html.paragraph(PUBLISHED)]
            ),
            Section("Task", [html.paragraph(about.about)]),
        ],
        lead=f"{about.name}, {budget:,} parameters, {config.steps} steps of {config.batch_size} "
        "examples.",
        finding=finding,
    )
