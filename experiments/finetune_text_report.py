"""What a run on texts found: results.json for programs, report.html for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from lora_jax import reports, training
from lora_jax.data import TextRecord, TextTask
from lora_jax.evaluation import Interval
from lora_jax.reports import Column, Section, brackets, curves_plot, html, metric_curve
from lora_jax.reports.saved_run import write_predictions

SHOWN = 5  # examples on the page and in results.json
in_brackets = brackets(".4f")


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
        answers = f", {metric} {in_brackets(self.metrics[metric])}" if self.metrics else ""
        return f"test loss {self.losses['loss']:.4f}{answers}"


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
    reports.write_report(
        workdir,
        "finetune_text",
        config.to_dict(),
        results,
        title=f"{config.model.name} on {task.name}",
        sections=[
            scores_section(config, task, len(tests), start, end),
            curves_section(result, start),
            Section("Examples", [html.fields(example) for example in examples]),
            Section("Task", [html.paragraph(task.about), html.paragraph(_describe(skipped))]),
        ],
        lead=f"{config.train}, {config.steps} steps of {config.batch_size} rows of "
        f"{config.encoding.length} tokens, seed {config.seed}.",
        finding=f"Before: {start.summary(task.metric)}. After: {end.summary(task.metric)}.",
    )


def scores_section(
    config: ConfigDict, task: TextTask, tests: int, start: Scored, end: Scored
) -> Section:
    """Losses and metrics, before and after."""
    rows = [
        {"metric": name, "start": first[name], "end": last[name]}
        for first, last in ((start.metrics, end.metrics), (start.losses, end.losses))
        for name in first
    ]
    columns = [
        Column("metric", "metric"),
        Column("start", "before training", in_brackets),
        Column("end", "after", in_brackets),
    ]
    search = config.decoding
    how = "greedily" if search.beams == 1 else f"by a search with {search.beams} beams"
    asked = (
        f"{tests:,} of {len(task.test):,} test records, answered {how}; in brackets 95 % "
        "intervals of the bootstrap over them."
    )
    table = html.table(rows, columns, highlight=task.metric)
    return Section("Scores", [table, html.paragraph(asked)])


def curves_section(result: training.Result, start: Scored) -> Section:
    """The loss in training, and on the test set."""
    losses = curves_plot([metric_curve(result.rows, "loss")])
    tested = metric_curve(result.rows, "eval/loss", start.losses["loss"])
    said = "Loss on the test set, from before the first step."
    figures = [html.figure(losses, "Training loss."), html.figure(curves_plot([tested]), said)]
    return Section("Curves", figures)


def _describe(skipped: Sequence[str]) -> str:
    if not skipped:
        return "No record was left out."
    return f"{len(skipped):,} records were left out, the first because of this: {skipped[0]}"
