"""What `task_switching` leaves: results.json for programs, report.html for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.task_switching_measures import Mixed, Restoration, Switchable
from lora_jax import reports
from lora_jax.evaluation import Latency, mean_interval, paired_interval
from lora_jax.reports import Column, Curve, Section, brackets, curves_plot, html, plus_minus

TIMES = (
    "Median and 95th percentile over {rounds} rounds, all ways in turn; the batch has {rows} rows. "
    "An index into the stack is the whole switch: the next call takes the factors as its input. "
    "Reading files takes them from the disk's cache."
)
RESTORED = (
    "{cycles} cycles of {count} adapters. W kept: the base has {base} bits, its outputs have "
    "{outputs} bits, and merging the first adapter again gives {merged} bits. The curve is the "
    "control, a base that is not kept but subtracted out of the merged weights: the largest "
    "|W' − W| over the adapted weights; at the end {changed:.1%} of their entries differ."
)
MIXED = (
    "{rows} rows with {count} adapters in one call differ from each row alone with its adapter by "
    "at most {difference:.2g}; the largest output is {scale:.3g}. One call takes {together:.2f} "
    "ms, one call for each adapter {apart:.2f} ms altogether."
)
INTERFERENCE = (
    "Each task with the head that was trained beside its own adapter; ± is the 95 % t-interval of "
    "the mean over {seeds} seeds. Weights multiply every adapter in a combination; "
    "the pruning kinds keep {density:.0%} of the entries."
)


def write_report(
    workdir: Path,
    config: ConfigDict,
    given: Switchable,
    switches: Mapping[str, Latency],
    restoration: Restoration,
    mixed: Mixed,
    interference: Sequence[Mapping[str, Any]],
) -> None:
    """Writes results.json and report.html."""
    rows = [
        {"name": name, "median": 1e3 * time.median, "p95": 1e3 * time.p95}
        for name, time in switches.items()
    ]
    sections = [
        Section(
            "Switching",
            [
                html.table(rows, TIME_COLUMNS),
                html.paragraph(TIMES.format(rounds=config.rounds, rows=config.rows)),
            ],
        ),
        Section(
            "The base afterwards",
            [
                html.paragraph(describe_restoration(config, given, restoration)),
                html.figure(drift_plot(restoration), "Only where W is not kept."),
            ],
        ),
        Section("Rows with different adapters", [html.paragraph(describe_mixed(given, mixed))]),
    ]
    scored = [{**row, "score": mean_interval(row["scores"])} for row in interference]
    if scored:
        note = INTERFERENCE.format(seeds=len(config.seeds), density=config.density)
        pieces = [html.table(by_choice(scored), score_columns(scored)), html.paragraph(note)]
        sections.append(Section("Several adapters in one", pieces))
    results = {
        "adapters": given.names,
        "switches": switches,
        "restoration": restoration,
        "mixed": mixed,
        "interference": scored,
    }
    index = 1e3 * switches["switch: an index into the stack"].median
    merge = 1e3 * switches["switch: merge anew, W kept"].median
    reports.write_report(
        workdir,
        "task_switching",
        config.to_dict(),
        results,
        title="One base, many adapters",
        sections=sections,
        lead=f"{config.model.name or config.model.path} with {', '.join(given.names)}.",
        finding=f"A switch is an index ({index:.2f} ms) or a merge ({merge:.2f} ms); after "
        f"{config.cycles} cycles the base has {same(restoration.is_base_identical)} bits."
        f"{describe_losses(scored)}",
    )


def describe_losses(scored: Sequence[Mapping[str, Any]]) -> str:
    """What the best combination of all adapters costs each task, seed by seed."""
    scores = {(one["choice"], one["task"]): one["scores"] for one in scored}
    own = {task: of for (choice, task), of in scores.items() if choice == "its own adapter"}
    mixed = [one for one in scored if ", weights " in one["choice"]]
    if not mixed:
        return ""
    losses = {
        choice: [paired_interval(scores[choice, task], own[task]) for task in own]
        for choice in dict.fromkeys(one["choice"] for one in mixed)
    }
    best = max(losses, key=lambda choice: sum(loss.mean for loss in losses[choice]))
    told = "; ".join(
        f"{task} {brackets('+.3f')(loss)}" for task, loss in zip(own, losses[best], strict=True)
    )
    return f" All adapters in one, at best ({best}), less each task's own: {told}."


def same(is_same: bool) -> str:
    """How to write that bits are or are not the same."""
    return "the same" if is_same else "OTHER"


def describe_restoration(config: ConfigDict, given: Switchable, found: Restoration) -> str:
    """Says what is left of the base."""
    return RESTORED.format(
        cycles=config.cycles,
        count=len(given.names),
        base=same(found.is_base_identical),
        outputs=same(found.are_outputs_identical),
        merged=same(found.is_merge_repeatable),
        changed=found.changed[-1],
    )


def describe_mixed(given: Switchable, found: Mixed) -> str:
    """Says how a mixed batch compares."""
    return MIXED.format(
        rows=found.rows,
        count=len(given.names),
        difference=found.difference,
        scale=found.scale,
        together=1e3 * found.together.median,
        apart=1e3 * found.apart.median,
    )


def drift_plot(found: Restoration) -> str:
    """The error of subtraction over cycles."""
    steps = range(1, len(found.drift) + 1)
    curve = Curve("W taken out of the merged weights", steps, found.drift)
    return curves_plot([curve], x_label="cycles", y_label="largest |W' − W|")


def by_choice(scored: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each choice, with the score on every task."""
    rows: dict[str, dict[str, Any]] = {}
    for one in scored:
        row = rows.setdefault(one["choice"], {"choice": one["choice"]})
        row[one["task"]] = one["score"]
    return list(rows.values())


def score_columns(scored: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The choice, and a column for each task."""
    tasks = {one["task"]: one["metric"] for one in scored}
    columns = [Column(task, f"{task} ({metric})", plus_minus(3)) for task, metric in tasks.items()]
    return [Column("choice", "params of"), *columns]


TIME_COLUMNS = [
    Column("name", "what"),
    Column("median", "median ms", "{:.3f}"),
    Column("p95", "p95 ms", "{:.3f}"),
]
