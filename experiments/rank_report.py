"""What `rank` leaves: a table in the terminal, results.json and report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments.study import Found, names_of, score_columns
from experiments.subject import Subject
from lora_jax import reports
from lora_jax.evaluation import Interval, mean_interval, paired_interval
from lora_jax.reports import (
    Column,
    Section,
    Series,
    SeriesPanel,
    brackets,
    curves_plot,
    html,
    plus_minus,
    print_table,
    published_rows,
    series_panels,
    series_plot,
)

NOTES = (
    "± is the 95 % t-interval of the mean over {seeds} seeds; a seed sets the new weights and the "
    "order of the examples. The learning rate of each row is the best of {rates} by the loss on "
    "{validation} validation examples, of {search} seeds; the test set had no say. Every adapter "
    "has α = {alpha:g}, so ΔW is scaled by α/r."
)
PUBLISHED_NOTES = (
    "Accuracies of GPT-3 175B, read as shapes to compare with, not as numbers to reach: another "
    "model, other tasks, and many more steps."
)
CAPACITY = (
    "{rows} rows of {length} random tokens, all in each of {steps} steps, rank by rank on "
    "{targets}. They take {most:,.0f} bits to say. Bits that the adapter knows = that number "
    "minus its loss on them; α/r as above, the better of the learning rates {rates}."
)

# Hu et al. 2021, table 6: WikiSQL and MNLI accuracy in percent, GPT-3 175B.
TABLE_6 = {
    "Wq": {1: (68.8, 90.7), 2: (69.6, 90.9), 4: (70.5, 91.1), 8: (70.4, 90.7), 64: (70.0, 90.7)},
    "Wq, Wv": {
        1: (73.4, 91.3), 2: (73.3, 91.4), 4: (73.7, 91.3), 8: (73.8, 91.6), 64: (73.5, 91.4)
    },
    "all four": {
        1: (74.1, 91.2), 2: (73.7, 91.7), 4: (74.0, 91.7), 8: (74.0, 91.5), 64: (73.9, 91.4)
    },
}  # fmt: skip
# The same, table 15: more parameters on the same two tasks.
TABLE_15 = (
    ("Wq, Wv r=2", "9.4M", 73.3, 91.4),
    ("Wq, Wv r=8", "37.7M", 73.8, 91.6),
    ("Wq, Wv r=64", "301.9M", 73.6, 91.4),
    ("all four r=1", "9.4M", 74.1, 91.2),
    ("all four r=4", "37.7M", 74.0, 91.7),
    ("all four r=64", "603.8M", 73.9, 91.4),
)
TABLE_15_COLUMNS = (
    Column("name", "GPT-3, targets"),
    Column("parameters", "parameters"),
    Column("wikisql", "WikiSQL, %"),
    Column("mnli", "MNLI, %"),
)
# The same, table 18: validation loss and BLEU of GPT-2 medium on E2E after 26,000 steps.
TABLE_18 = (
    (1, 1.23, 68.72), (2, 1.21, 69.17), (4, 1.18, 70.38), (8, 1.17, 69.57), (16, 1.16, 69.61),
    (32, 1.16, 69.33), (64, 1.16, 69.24), (128, 1.16, 68.73), (256, 1.16, 68.92),
    (512, 1.16, 68.78), (1024, 1.17, 69.37),
)  # fmt: skip
TABLE_18_COLUMNS = (
    Column("rank", "GPT-2 medium on E2E, rank"),
    Column("loss", "validation loss"),
    Column("bleu", "BLEU"),
)


class Stored(NamedTuple):
    """How many bits of random tokens adapters of a rank hold, with the value of each seed."""

    rank: int
    trained: int
    bits: Interval
    most: float
    scores: list[float]


class Row(NamedTuple):
    """A rank on a set of targets."""

    name: str
    targets: str
    rank: int
    trained: int
    rate: float
    scores: list[float]
    score: Interval
    test_loss: Interval
    train_loss: Interval


def rows_of(
    config: ConfigDict, about: Subject, trained: Mapping[str, int], found: Found
) -> list[Row]:
    """One row for each set of targets and rank."""
    rows = []
    for targets in names_of(config):
        for rank in config.ranks:
            name = f"{targets} r={rank}"
            runs = found.of(name, config.seeds)
            last = max(1, config.steps // 10)
            rows.append(
                Row(
                    *(name, targets, rank, trained[name], found.rates[name], found.scores[name]),
                    score=mean_interval(found.scores[name]),
                    test_loss=mean_interval([run.test_loss for run in runs]),
                    train_loss=mean_interval([float(np.mean(run.losses[-last:])) for run in runs]),
                )
            )
    return rows


def print_ranks(
    console: Console, config: ConfigDict, about: Subject, trained: Mapping[str, int], found: Found
) -> None:
    """Prints the table and the finding."""
    rows = rows_of(config, about, trained, found)
    print_table(rows, columns_of(about), console=console)
    console.print(finding_of(about, rows), markup=False)


def columns_of(about: Subject) -> list[Column]:
    """The columns of the table."""
    return [
        Column("targets", "targets"),
        Column("rank", "rank"),
        Column("trained", "parameters", "{:,}"),
        Column("rate", "learning rate", "{:g}"),
        *score_columns(about),
        Column("train_loss", "training loss at the end", plus_minus(3)),
    ]


def finding_of(about: Subject, rows: Sequence[Row]) -> str:
    """For each set of targets the best rank, and the highest minus the lowest, seed by seed."""
    parts = []
    for targets in dict.fromkeys(row.targets for row in rows):
        own = sorted((row for row in rows if row.targets == targets), key=lambda row: row.rank)
        if len(own) < 2:
            continue
        best = (min if about.lower_is_better else max)(own, key=lambda row: row.score.mean)
        gain = paired_interval(own[-1].scores, own[0].scores)
        told = "" if gain.contains(0) or np.isnan(gain.low) else ", which the seeds tell from zero"
        parts.append(
            f"{targets}: best at rank {best.rank} ({about.metric} {best.score.mean:.3f}); rank "
            f"{own[-1].rank} minus rank {own[0].rank} is {brackets('+.3f')(gain)}{told}."
        )
    return " ".join(parts)


def write_report(
    workdir: Path,
    config: ConfigDict,
    about: Subject,
    trained: Mapping[str, int],
    found: Found,
    stored: Sequence[Stored],
) -> None:
    """Writes results.json and report.html."""
    rows = rows_of(config, about, trained, found)
    finding = finding_of(about, rows)
    sections = [results_section(config, about, rows), curves_section(config, found)]
    if stored:
        sections.append(capacity_section(config, stored))
    sections += [published_section(), Section("Task", [html.paragraph(about.about)])]
    reports.write_report(
        workdir,
        "rank",
        config.to_dict(),
        {
            "task": config.task.name,
            "metric": about.metric,
            "outcomes": rows,
            "capacity": stored,
        },
        title="How high a rank is needed?",
        sections=sections,
        lead=f"{about.name}, {config.steps} steps of {config.batch_size} examples.",
        finding=finding,
    )


def results_section(config: ConfigDict, about: Subject, rows: Sequence[Row]) -> Section:
    """The table, and the score over the rank."""
    series = [
        Series(
            targets,
            [row.rank for row in rows if row.targets == targets],
            [row.score for row in rows if row.targets == targets],
        )
        for targets in names_of(config)
    ]
    figure = series_plot(series, x_label="rank", y_label=f"{about.metric} on the test set")
    notes = NOTES.format(
        seeds=len(config.seeds),
        rates=", ".join(f"{rate:g}" for rate in config.rates.lora),
        validation=config.examples.validation,
        search=config.search_seeds,
        alpha=config.alpha,
    )
    return Section(
        "Results",
        [
            html.table(rows, columns_of(about)),
            html.paragraph(notes),
            html.figure(figure, f"{about.metric}, mean and 95 % interval."),
        ],
    )


def curves_section(config: ConfigDict, found: Found) -> Section:
    """Training loss of every rank on the last set of targets."""
    window = max(1, config.steps // 10)
    targets = names_of(config)[-1]
    curves = [
        found.curve(f"{targets} r={rank}", config.seeds, f"r={rank}") for rank in config.ranks
    ]
    caption = f"{targets}: training loss over {window} steps, mean over the seeds and their range."
    return Section("Learning curves", [html.figure(curves_plot(curves, window=window), caption)])


def capacity_section(config: ConfigDict, stored: Sequence[Stored]) -> Section:
    """Bits of random tokens over the rank."""
    settings = config.capacity
    table: list[dict[str, Any]] = [
        {**one._asdict(), "share": one.bits.mean / one.most, "each": one.bits.mean / one.trained}
        for one in stored
    ]
    columns = [
        Column("rank", "rank"),
        Column("trained", "parameters", "{:,}"),
        Column("bits", "bits held", plus_minus(0)),
        Column("share", "of all bits", "{:.0%}"),
        Column("each", "bits a parameter", "{:.2f}"),
    ]
    series = Series("bits held", [one.trained for one in stored], [one.bits for one in stored])
    figure = series_plot([series], x_label="trained parameters", y_label="bits")
    caption = CAPACITY.format(
        rows=settings.rows,
        length=settings.length,
        steps=settings.steps,
        targets=settings.targets,
        most=stored[0].most,
        rates=" and ".join(f"{rate:g}" for rate in settings.rates),
    )
    pieces = [html.table(table, columns), html.figure(figure, caption)]
    return Section("Capacity: random tokens learnt by heart", pieces)


def published_section() -> Section:
    """What Hu et al. published."""
    panels = [
        SeriesPanel(
            task,
            [
                Series(name, list(row), [score[index] for score in row.values()], is_published=True)
                for name, row in TABLE_6.items()
            ],
        )
        for index, task in enumerate(("WikiSQL", "MNLI"))
    ]
    figure = series_panels(panels, x_label="rank", y_label="accuracy, %")
    more = published_rows("Hu et al. 2021, table 15", TABLE_15_COLUMNS, TABLE_15)
    e2e = published_rows("Hu et al. 2021, table 18", TABLE_18_COLUMNS, TABLE_18)
    return Section(
        "Published",
        [
            html.figure(figure, f"Hu et al. 2021, table 6. {PUBLISHED_NOTES}"),
            html.table(more, TABLE_15_COLUMNS),
            html.table(e2e, TABLE_18_COLUMNS),
        ],
    )
