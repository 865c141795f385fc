"""What `lora_vs_full` leaves: tables in the terminal, results.json and report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments.joint import Choice
from experiments.study import Found
from experiments.subject import Subject
from lora_jax import reports
from lora_jax.analysis.pareto import Candidate
from lora_jax.evaluation import Interval, mean_interval
from lora_jax.reports import (
    Column,
    Curve,
    Published,
    Section,
    curves_plot,
    html,
    print_table,
    tradeoff_plot,
)
from lora_jax.reports.tables import plus_minus

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
COSTS = (
    "Of one run alone in the usual setting. Checkpoint: the weights that trained. Peak: arguments, "
    "results and temporaries of the compiled step, as XLA lays it out for CPU. Seconds: median of "
    "{steps} steps, both by turns."
)

# Hu et al. 2021, table 16: MNLI accuracy of GPT-3 on few examples.
TABLE_16 = {
    "full fine-tuning": (60.2, 85.8, 88.9, 89.5),
    "LoRA": (63.8, 85.6, 89.2, 91.7),
}
# The same, tables 2 and 4.
QUALITY = (
    ("RoBERTa base, average of GLUE", 86.4, 87.2, "table 2"),
    ("RoBERTa large, average of GLUE", 88.9, 89.0, "table 2"),
    ("GPT-3 175B, WikiSQL (37.7M parameters)", 73.8, 74.0, "table 4"),
    ("GPT-3 175B, MNLI (4.7M parameters)", 89.5, 91.7, "table 4"),
)


class Setting(NamedTuple):
    """Both ways to train, with the same batches."""

    name: str
    lora: Choice
    full: Choice


class Cost(NamedTuple):
    """Bytes of a run alone, and the seconds of some of its steps."""

    name: str
    trained: int
    optimizer: int
    frozen: int
    temporaries: int
    peak: int
    seconds: list[float]


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
    for name in found.of(usual.lora.name, config.seeds)[0].left:
        pairs = zip(
            found.of(usual.lora.name, config.seeds),
            found.of(usual.full.name, config.seeds),
            strict=True,
        )
        gaps = [first.left[name] - second.left[name] for first, second in pairs]
        lines.append({"name": f"LoRA − full, {name}", "difference": mean_interval(gaps)})
    return lines


def difference(name: str, first: Choice, second: Choice, found: Found) -> dict:
    """The difference of two choices' scores, seed by seed."""
    pairs = zip(found.scores[first.name], found.scores[second.name], strict=True)
    return {"name": name, "difference": mean_interval([a - b for a, b in pairs])}


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
        parts.append(f"{line['name']}: {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}], {told}.")
    ratio = found.rates[usual.lora.name] / found.rates[usual.full.name]
    return f"In {about.metric}: {' '.join(parts)} LoRA's chosen learning rate is {ratio:g} times."


def columns_of(about: Subject, rows: Sequence[Row]) -> list[Column]:
    """The columns of the table of scores."""
    score = [] if about.lower_is_better else [Column("score", about.metric, plus_minus(3))]
    return [
        Column("name", "trained"),
        Column("rate", "learning rate", "{:g}"),
        *score,
        Column("test_loss", "test loss", plus_minus(3)),
        *(Column(name, name.replace("_", " "), plus_minus(3)) for name in rows[0].left),
    ]


def lines_of(rows: Sequence[Row]) -> list[dict]:
    """The rows as the table shows them."""
    return [{**row._asdict(), **row.left} for row in rows]


def cost_lines(costs: Sequence[Cost]) -> list[dict]:
    """The costs as the table shows them, in MiB and milliseconds."""
    mebibytes = lambda count: count / 2**20
    return [
        {
            "name": cost.name,
            "checkpoint": mebibytes(cost.trained),
            "optimizer": mebibytes(cost.optimizer),
            "temporaries": mebibytes(cost.temporaries),
            "peak": mebibytes(cost.peak),
            "step": 1000 * float(np.median(cost.seconds)),
        }
        for cost in costs
    ]


COST_COLUMNS = [
    Column("name", "trained"),
    Column("checkpoint", "checkpoint, MiB", "{:.2f}"),
    Column("optimizer", "optimiser state, MiB", "{:.2f}"),
    Column("temporaries", "temporaries, MiB", "{:.1f}"),
    Column("peak", "peak of a step, MiB", "{:.1f}"),
    Column("step", "step, ms", "{:.1f}"),
]
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
    notes = NOTES.format(
        seeds=len(config.seeds),
        validation=config.examples.validation,
        search=config.search_seeds,
        rank=config.rank,
        targets=", ".join(config.targets),
        alpha=config.alpha,
    )
    curves = [
        Curve(
            choice.name,
            range(1, choice.steps + 1),
            [run.losses for run in found.of(choice.name, config.seeds)],
        )
        for choice in (settings[0].lora, settings[0].full)
    ]
    sections = [
        Section(
            "Results",
            [
                html.table(lines_of(rows), columns_of(about, rows)),
                html.table(lines, DIFFERENCE_COLUMNS),
                html.paragraph(notes),
                html.figure(curves_plot(curves), "Training loss: mean over the seeds, and range."),
            ],
        )
    ]
    if before:
        sections.append(forgetting_section(config, about, settings, found, before))
    costs_text = COSTS.format(steps=config.timed_steps)
    sections += [
        Section(
            "Costs",
            [html.table(cost_lines(costs), COST_COLUMNS), html.paragraph(costs_text)],
        ),
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
    quality = [
        Published(f"Hu et al. 2021, {where}", {"name": name, "full": full, "lora": lora})
        for name, full, lora, where in QUALITY
    ]
    few = [
        Published(
            "Hu et al. 2021, table 16",
            {"name": name, **dict(zip(("n100", "n1k", "n10k", "all"), scores, strict=True))},
        )
        for name, scores in TABLE_16.items()
    ]
    return Section(
        "Published",
        [
            html.table(
                quality,
                [
                    Column("name", "model and task"),
                    Column("full", "full fine-tuning"),
                    Column("lora", "LoRA"),
                ],
            ),
            html.table(
                few,
                [
                    Column("name", "GPT-3, MNLI accuracy, %"),
                    Column("n100", "100 examples"),
                    Column("n1k", "1k"),
                    Column("n10k", "10k"),
                    Column("all", "392k"),
                ],
            ),
        ],
    )
