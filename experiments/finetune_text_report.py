"""What a run on texts found: results.json for programs, report.html for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from lora_jax import reports, training
from lora_jax.data import TextRecord, TextTask
from lora_jax.evaluation import Interval
from lora_jax.reports import Column, Curve, Section, curves_plot, html
from lora_jax.reports.saved_run import write_predictions

SHOWN = 5  # examples on the page and in results.json


class Scored(NamedTuple):
    """How well a model does on the test set.

    Attributes:
      losses: loss in nats a token, perplexity and token accuracy.
      metrics: of generated answers, with bootstrap intervals; none where nothing is generated.
      texts: the answers.
    """

    losses: Mapping[str, float]
    metrics: Mapping[str, Interval]
    texts: Sequence[str]

    def summary(self, metric: str) -> str:
        """One line."""
        answers = f", {metric} {write_interval(self.metrics[metric])}" if self.metrics else ""
        return f"test loss {self.losses['loss']:.4f}{answers}"


def write_interval(interval: Interval | float) -> str:
    """Writes a value, and the ends of its interval if it has one."""
    if isinstance(interval, Interval):
        return f"{interval.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
    return f"{interval:.4f}"


def write_report(
    workdir: Path,
    config: ConfigDict,
    task: TextTask,
    tests: Sequence[TextRecord],
    result: training.Result,
    start: Scored,
    end: Scored,
    skipped: Sequence[str],
) -> None:
    """Writes predictions.json, results.json and report.html."""
    if task.metrics:
        write_predictions(workdir, task.metrics, end.texts, [record.accepted for record in tests])
    examples = [
        {"prompt": r.prompt, "at the start": first, "at the end": last, "reference": r.accepted[0]}
        for r, first, last in zip(tests[:SHOWN], start.texts, end.texts, strict=False)
    ]
    results = {
        "task": task.name,
        "metric": task.metric,
        "test_examples": len(tests),
        "start": {**start.losses, **start.metrics},
        "end": {**end.losses, **end.metrics},
        "examples": examples,
        "skipped": skipped,
    }
    rows = [
        {"metric": name, "start": first[name], "end": last[name]}
        for first, last in ((start.metrics, end.metrics), (start.losses, end.losses))
        for name in first
    ]
    columns = [
        Column("metric", "metric"),
        Column("start", "before training", write_interval),
        Column("end", "after", write_interval),
    ]
    search = config.decoding
    how = "greedily" if search.beams == 1 else f"by a search with {search.beams} beams"
    asked = (
        f"{len(tests):,} of {len(task.test):,} test records, answered {how}; in brackets 95 % "
        "intervals of the bootstrap over them."
    )
    losses = curves_plot([_curve(result, "loss")])
    test_losses = curves_plot([_curve(result, "eval/loss", start.losses["loss"])])
    reports.write_report(
        workdir,
        "finetune_text",
        config.to_dict(),
        results,
        title=f"{config.model.name} on {task.name}",
        sections=[
            Section(
                "Scores", [html.table(rows, columns, highlight=task.metric), html.paragraph(asked)]
            ),
            Section(
                "Curves",
                [
                    html.figure(losses, "Training loss."),
                    html.figure(test_losses, "Loss on the test set, from before the first step."),
                ],
            ),
            Section("Examples", [html.fields(example) for example in examples]),
            Section("Task", [html.paragraph(task.about), html.paragraph(_describe(skipped))]),
        ],
        lead=f"{config.train}, {config.steps} steps of {config.batch_size} rows of "
        f"{config.encoding.length} tokens, seed {config.seed}.",
        finding=f"Before: {start.summary(task.metric)}. After: {end.summary(task.metric)}.",
    )


def _describe(skipped: Sequence[str]) -> str:
    if not skipped:
        return "No record was left out."
    return f"{len(skipped):,} records were left out, the first because of this: {skipped[0]}"


def _curve(result: training.Result, metric: str, start: float | None = None) -> Curve:
    rows = [(row["step"], row[metric]) for row in result.rows if row.get(metric) is not None]
    steps, values = zip(*([] if start is None else [(0, start)]), *rows, strict=True)
    return Curve(metric, steps, values)
