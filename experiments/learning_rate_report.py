"""What `learning_rate` leaves: a table in the terminal, results.json and report.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments.joint import FULL, Choice
from experiments.study import Found
from experiments.subject import Subject
from lora_jax import reports
from lora_jax.analysis.optimum import Optimum, early_spread, fit_optimum, optimum_ratio
from lora_jax.evaluation import Interval, mean_interval
from lora_jax.reports import (
    Column,
    Curve,
    Section,
    Series,
    brackets,
    curves_plot,
    html,
    plus_minus,
    print_table,
    published_rows,
    series_plot,
)

NOTES = (
    "The optimum is the vertex of the parabola in log(rate) through the lowest mean loss and its "
    "two neighbours, between the lowest and the highest rate of the grid; in brackets the 95 % "
    "percentile interval over seeds drawn with replacement. An edge: the lowest loss is at an end "
    "of the grid, and the optimum may lie beyond. Loss on {count} validation examples, never "
    "those of the test. α = {alpha:g} for every rank; the rate is constant after a warm-up of "
    "{warmup:.0%} of {steps} steps."
)
OVERLAY = (
    "Training loss at the rate {rate:g}, mean over the seeds and their range. In the first {early} "
    "steps the means of the ranks lie at most {spread:.3f} nats apart; one rank's seeds, about "
    "{noise:.3f}."
)

# Schulman et al. 2025, from the text of the post.
CLAIMS = (
    ("best rate of LoRA over that of full fine-tuning", "10 (fit 9.8)"),
    ("the same, for runs of 100 steps or fewer", "about 15"),
    ("best rate, ranks 4 to 512", "changes by less than 2 times"),
)
in_brackets = brackets(".3g")
CLAIM_COLUMNS = [Column("claim", "claim"), Column("value", "value")]


class Row(NamedTuple):
    """A rank, or full fine-tuning."""

    name: str
    optimum: Optimum
    best: float
    ratio: Interval | None
    scores: list[float]
    score: Interval


def grid_of(config: ConfigDict, choice: Choice, found: Found) -> tuple[list[float], np.ndarray]:
    """The rates of a choice, and its validation losses [seeds, rates]."""
    rates = list(config.rates[choice.kind])
    losses = [
        [found.outcomes[choice.name, rate, seed].validation for rate in rates]
        for seed in config.seeds
    ]
    return rates, np.array(losses)


def rows_of(config: ConfigDict, choices: Sequence[Choice], found: Found) -> list[Row]:
    """One row a choice; the ratio is to full fine-tuning."""
    full = next(grid_of(config, choice, found) for choice in choices if choice.kind == FULL)
    rows = []
    for choice in choices:
        grid = grid_of(config, choice, found)
        ratio = None
        if choice.kind != FULL:
            ratio = optimum_ratio(grid, full, resamples=config.resamples)
        scores = found.scores[choice.name]
        rows.append(
            Row(
                choice.name,
                fit_optimum(*grid, resamples=config.resamples),
                *(found.rates[choice.name], ratio, scores, mean_interval(scores)),
            )
        )
    return rows


def finding_of(rows: Sequence[Row]) -> str:
    """How much the best rate depends on the rank, and how it compares with full fine-tuning."""
    adapters = [(row, row.ratio) for row in rows if row.ratio is not None]
    rates = [row.optimum.rate.mean for row, _ in adapters]
    parts = [
        f"The best rate of {row.name} is {in_brackets(row.optimum.rate)}, {in_brackets(ratio)} "
        f"times that of full fine-tuning{' (an edge of the grid)' if row.optimum.at_edge else ''}."
        for row, ratio in adapters
    ]
    return " ".join([*parts, f"Between ranks it changes {max(rates) / min(rates):.2f} times."])


def columns_of(about: Subject) -> list[Column]:
    """The columns of the table."""
    return [
        Column("name", "trained"),
        Column("rate", "best learning rate", in_brackets),
        Column("edge", "at an edge"),
        Column("ratio", "over full fine-tuning's", in_brackets),
        Column("best", "best of the grid", "{:g}"),
        Column("score", f"test {about.metric} there", plus_minus(3)),
    ]


def lines_of(rows: Sequence[Row]) -> list[dict]:
    """The rows as the table shows them."""
    return [
        {**row._asdict(), "rate": row.optimum.rate, "edge": "yes" if row.optimum.at_edge else "no"}
        for row in rows
    ]


def print_rates(
    console: Console, config: ConfigDict, about: Subject, choices: Sequence[Choice], found: Found
) -> None:
    """Prints the table and the finding."""
    rows = rows_of(config, choices, found)
    print_table(lines_of(rows), columns_of(about), console=console)
    console.print(finding_of(rows), markup=False)


def write_report(
    workdir: Path, config: ConfigDict, about: Subject, choices: Sequence[Choice], found: Found
) -> None:
    """Writes results.json and report.html."""
    rows = rows_of(config, choices, found)
    finding = finding_of(rows)
    overlay, spread = overlay_section(config, choices, found)
    claims = published_rows('Schulman et al. 2025, "LoRA Without Regret"', CLAIM_COLUMNS, CLAIMS)
    series = []
    for choice in choices:
        rates, losses = grid_of(config, choice, found)
        # The scores of all seeds at each rate.
        series.append(Series(choice.name, rates, losses.T.tolist()))
    plot = series_plot(series, x_label="learning rate", y_label="validation loss")
    notes = NOTES.format(
        count=config.examples.validation,
        alpha=config.alpha,
        warmup=config.optimizer.warmup,
        steps=config.steps,
    )
    results = {
        "task": config.task.name,
        "metric": about.metric,
        "outcomes": rows,
        "early_spread": spread,
        "grid": {
            choice.name: dict(zip(("rates", "losses"), grid_of(config, choice, found), strict=True))
            for choice in choices
        },
    }
    reports.write_report(
        workdir,
        "learning_rate",
        config.to_dict(),
        results,
        title="Which learning rate?",
        sections=[
            Section(
                "Results",
                [
                    html.table(lines_of(rows), columns_of(about)),
                    html.paragraph(notes),
                    html.figure(plot, "Mean over the seeds and its 95 % interval."),
                ],
            ),
            overlay,
            Section("Published", [html.table(claims, CLAIM_COLUMNS)]),
            Section("Task", [html.paragraph(about.about)]),
        ],
        lead=f"{about.name}, {config.steps} steps of {config.batch_size} examples.",
        finding=finding,
    )


def overlay_section(
    config: ConfigDict, choices: Sequence[Choice], found: Found
) -> tuple[Section, dict[str, float]]:
    """Curves of all ranks at one rate, the middle of the grid, and how far they lie apart."""
    rate = config.rates.lora[len(config.rates.lora) // 2]
    curves = {
        choice.name: np.array(
            [found.outcomes[choice.name, rate, seed].losses for seed in config.seeds]
        )
        for choice in choices
        if choice.kind != FULL
    }
    early = max(2, config.steps // 5)
    last = list(curves.values())[-1]
    # The standard error of a mean curve, the largest within these steps.
    noise = float((last.std(axis=0) / np.sqrt(len(last)))[:early].max())
    spread = early_spread(curves, early)
    plot = curves_plot(
        [Curve(name, range(1, config.steps + 1), curve.tolist()) for name, curve in curves.items()]
    )
    caption = OVERLAY.format(rate=rate, early=early, spread=spread, noise=noise)
    section = Section("Do curves of different ranks overlay?", [html.figure(plot, caption)])
    return section, {"rate": rate, "steps": early, "spread": spread, "standard_error": noise}
