"""What `lora_vs_full` leaves: tables in the terminal, results.json and report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments.joint import Choice
from experiments.lora_vs_full_costs import COST_COLUMNS, Cost, cost_lines, costs_section
from experiments.study import Found, score_columns
from experiments.subject import Subject
from lora_jax import reports
from lora_jax.analysis.pareto import Candidate
from lora_jax.evaluation import Interval, mean_interval, paired_interval
from lora_jax.reports import (
    Column,
    Section,
    brackets,
    curves_plot,
    html,
    plus_minus,
    print_table,
    published_rows,
    tradeoff_plot,
)

NOTES = (
    "± is the 95 % t-interval of the mean over {seeds} seeds. Differences are taken seed by seed, "
    "which sets the new weights, the order and, where they are few, the choice of the examples. "
    "The learning rate of each row is the best of its own by the loss on {validation} validation "
    "examples, of {search} seeds. LoRA: rank {rank} on {targets}, α = {alpha:g}. Large batches see "
    "as many examples in all, in fewer steps."
)
OWN = {
    "own_loss": "Loss, in nats a token, on texts that the base itself wrote, drawn at temperature "
    "1 with a fixed seed. They are no stories of the corpus that the base was trained on, which is "
    "not here; the rise of the loss over the base's own estimates KL(base || tuned) of a token.",
    "stsb_spearman": "Spearman's correlation of the cosine of two embeddings with STS-B's human "
    "scores; the head of the task takes no part in it.",
    "embedding_cosine": "Mean cosine of the embedding of a sentence before and after.",
}
# Hu et al. 2021, tables 2 and 4.
QUALITY = (
    ("RoBERTa base, average of GLUE (table 2)", 86.4, 87.2),
    ("RoBERTa large, average of GLUE (table 2)", 88.9, 89.0),
    ("GPT-3 175B, WikiSQL, 37.7M parameters (table 4)", 73.8, 74.0),
    ("GPT-3 175B, MNLI, 4.7M parameters (table 4)", 89.5, 91.7),
)
QUALITY_COLUMNS = (
    Column("name", "model and task"),
    Column("full", "full fine-tuning"),
    Column("lora", "LoRA"),
)
# The same, table 16: MNLI accuracy of GPT-3 on few examples.
TABLE_16 = (
    ("full fine-tuning", 60.2, 85.8, 88.9, 89.5),
    ("LoRA", 63.8, 85.6, 89.2, 91.7),
)
TABLE_16_COLUMNS = (
    Column("name", "GPT-3, MNLI accuracy, %"),
    Column("n100", "100 examples"),
    Column("n1k", "1k"),
    Column("n10k", "10k"),
    Column("all", "392k"),
)


class Setting(NamedTuple):
    """Both ways to train, with the same batches."""

    name: str
    lora: Choice
    full: Choice


class Row(NamedTuple):
    """A way to train in a setting; `left` is what is left of the base's own domain."""

    name: str
    setting: str
    rate: float
    scores: list[float]
    score: Interval
    test_loss: Interval
    left: dict[str, Interval]


def rows_of(config: ConfigDict, settings: Sequence[Setting], found: Found) -> list[Row]:
    """Two rows a setting."""
    return [
        make_row(config, setting.name, choice, found)
        for setting in settings
        for choice in (setting.lora, setting.full)
    ]


def make_row(config: ConfigDict, setting: str, choice: Choice, found: Found) -> Row:
    """One row, at the best rate."""
    runs, scores = found.of(choice.name, config.seeds), found.scores[choice.name]
    return Row(
        name=choice.name,
        setting=setting,
        rate=found.rates[choice.name],
        scores=scores,
        score=mean_interval(scores),
        test_loss=mean_interval([run.test_loss for run in runs]),
        left={name: mean_interval([run.left[name] for run in runs]) for name in runs[0].left},
    )


def differences_of(
    config: ConfigDict, about: Subject, settings: Sequence[Setting], found: Found
) -> list[dict]:
    """LoRA minus full fine-tuning in each setting, and each setting minus the usual one."""
    lines = []
    usual = settings[0]
    for setting in settings:
        lines.append(difference("LoRA − full, " + setting.name, setting.lora, setting.full, found))
    for setting in settings[1:]:
        for own, other in ((setting.lora, usual.lora), (setting.full, usual.full)):
            lines.append(difference(f"{own.name} − usual", own, other, found))
    adapted, whole = (found.of(c.name, config.seeds) for c in (usual.lora, usual.full))
    for name in adapted[0].left:
        gap = paired_interval(*([run.left[name] for run in runs] for runs in (adapted, whole)))
        lines.append({"name": f"LoRA − full, {name}", "difference": gap})
    return lines


def difference(name: str, first: Choice, second: Choice, found: Found) -> dict:
    """The difference of two choices' scores, seed by seed."""
    gap = paired_interval(found.scores[first.name], found.scores[second.name])
    return {"name": name, "difference": gap}


def finding_of(
    about: Subject, settings: Sequence[Setting], found: Found, lines: Sequence[dict]
) -> str:
    """Which is better, what is forgotten, and the ratio of the chosen rates."""
    usual = settings[0]
    parts = []
    for line in lines:
        if not line["name"].startswith("LoRA − full"):
            continue
        gap = line["difference"]
        told = "not told from zero" if not gap.low > 0 and not gap.high < 0 else "told from zero"
        parts.append(f"{line['name']}: {brackets('+.3f')(gap)}, {told}.")
    ratio = found.rates[usual.lora.name] / found.rates[usual.full.name]
    return f"In {about.metric}: {' '.join(parts)} LoRA's chosen learning rate is {ratio:g} times."


def columns_of(about: Subject, rows: Sequence[Row]) -> list[Column]:
    """The columns of the table of scores."""
    return [
        Column("name", "trained"),
        Column("rate", "learning rate", "{:g}"),
        *score_columns(about),
        *(Column(name, name.replace("_", " "), plus_minus(3)) for name in rows[0].left),
    ]


def lines_of(rows: Sequence[Row]) -> list[dict]:
    """The rows as the table shows them."""
    return [{**row._asdict(), **row.left} for row in rows]


DIFFERENCE_COLUMNS = [
    Column("name", "difference"),
    Column("difference", "mean and 95 % interval", plus_minus(3)),
]


def print_comparison(
    console: Console,
    config: ConfigDict,
    about: Subject,
    settings: Sequence[Setting],
    found: Found,
    costs: Sequence[Cost],
) -> None:
    """Prints the tables and the finding."""
    rows = rows_of(config, settings, found)
    lines = differences_of(config, about, settings, found)
    print_table(lines_of(rows), columns_of(about, rows), console=console)
    print_table(lines, DIFFERENCE_COLUMNS, console=console)
    print_table(cost_lines(costs), COST_COLUMNS, console=console)
    console.print(finding_of(about, settings, found, lines), markup=False)


def write_report(
    workdir: Path,
    config: ConfigDict,
    about: Subject,
    settings: Sequence[Setting],
    found: Found,
    costs: Sequence[Cost],
    before: Mapping[str, float],
) -> None:
    """Writes results.json and report.html."""
    rows = rows_of(config, settings, found)
    lines = differences_of(config, about, settings, found)
    finding = finding_of(about, settings, found, lines)
    sections = [results_section(config, about, settings, rows, lines, found)]
    if before:
        sections.append(forgetting_section(config, about, settings, found, before))
    sections += [
        costs_section(config, costs),
        published_section(),
        Section("Task", [html.paragraph(about.about)]),
    ]
    reports.write_report(
        workdir,
        "lora_vs_full",
        config.to_dict(),
        {
            "task": config.task.name,
            "metric": about.metric,
            "outcomes": rows,
            "differences": lines,
            "costs": costs,
            "base": before,
        },
        title="LoRA against full fine-tuning",
        sections=sections,
        lead=f"{about.name}, {config.steps} steps of {config.batch_size} examples.",
        finding=finding,
    )


def results_section(
    config: ConfigDict,
    about: Subject,
    settings: Sequence[Setting],
    rows: Sequence[Row],
    lines: Sequence[dict],
    found: Found,
) -> Section:
    """The tables, and learning curves of the usual setting."""
    notes = NOTES.format(
        seeds=len(config.seeds),
        validation=config.examples.validation,
        search=config.search_seeds,
        rank=config.rank,
        targets=", ".join(config.targets),
        alpha=config.alpha,
    )
    usual = (settings[0].lora.name, settings[0].full.name)
    plot = curves_plot([found.curve(name, config.seeds) for name in usual])
    return Section(
        "Results",
        [
            html.table(lines_of(rows), columns_of(about, rows)),
            html.table(lines, DIFFERENCE_COLUMNS),
            html.paragraph(notes),
            html.figure(plot, "Training loss: mean over the seeds, and range."),
        ],
    )


def forgetting_section(
    config: ConfigDict,
    about: Subject,
    settings: Sequence[Setting],
    found: Found,
    before: Mapping[str, float],
) -> Section:
    """What was learnt against what was forgotten, at every learning rate of the usual setting."""
    first = next(iter(before))  # of a decoder a loss, of an encoder a correlation
    sign = 1.0 if about.lower_is_better else -1.0
    seeds = config.seeds[: config.search_seeds]
    candidates = []
    for kind, choice in (("LoRA", settings[0].lora), ("full", settings[0].full)):
        for rate in config.rates[choice.kind]:
            runs = [found.outcomes[choice.name, rate, seed] for seed in seeds]
            if not np.isfinite([run.test for run in runs]).all():
                continue
            learnt = tuple(-run.test if about.lower_is_better else run.test for run in runs)
            forgotten = tuple(sign * (run.left[first] - before[first]) for run in runs)
            candidates.append(Candidate(f"{kind} {rate:g}", learnt, forgotten, 0))
    said = ", ".join(f"{name} {value:.3f}" for name, value in before.items())
    pieces = [html.paragraph(f"The base itself: {said}. {OWN[name]}") for name in before]
    if candidates:
        plot = tradeoff_plot(
            candidates,
            x_label=f"forgotten: change of {first.replace('_', ' ')}",
            y_label="−loss on the test set" if about.lower_is_better else about.metric,
        )
        pieces.append(
            html.figure(plot, f"Every learning rate, {len(seeds)} seeds; up and left is better.")
        )
    return Section("Forgetting", pieces)


def published_section() -> Section:
    """What Hu et al. published."""
    quality = published_rows("Hu et al. 2021", QUALITY_COLUMNS, QUALITY)
    few = published_rows("Hu et al. 2021, table 16", TABLE_16_COLUMNS, TABLE_16)
    tables = [html.table(quality, QUALITY_COLUMNS), html.table(few, TABLE_16_COLUMNS)]
    return Section("Published", tables)
