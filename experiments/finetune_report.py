"""What a fine-tuning run found: results.json for programs, report.html for people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from lora_jax import reports, training
from lora_jax.data import Task
from lora_jax.reports import Section, curves_plot, html, metric_curve
from lora_jax.reports.saved_run import write_predictions


def write_report(
    workdir: Path,
    config: ConfigDict,
    task: Task,
    start: float,
    result: training.Result,
    tested: tuple[np.ndarray, np.ndarray],
) -> None:
    """Writes predictions.json, results.json and report.html.

    Args:
      workdir: where to.
      config: of the run.
      task: what was learnt.
      start: the metric before the first step.
      result: of the training.
      tested: what was predicted for the test set at the end, and what is right.
    """
    write_predictions(workdir, [task.metric], *tested)
    name = f"eval/{task.metric}"
    better = min if config.best.mode == "min" else max
    last, (best_step, best) = result.last(name), result.best(name, better)
    results = {
        f"start_{task.metric}": start,
        task.metric: last,
        f"best_{task.metric}": best,
        "best_step": best_step,
        "loss": result.last("loss"),
    }
    draw = lambda metric: curves_plot([metric_curve(result.rows, metric)], y_label=metric)
    curves = [
        html.figure(draw("loss"), "Training loss."),
        html.figure(draw(name), f"{task.metric} on the test set."),
    ]
    reports.write_report(
        workdir,
        "finetune",
        config.to_dict(),
        results,
        title=f"{config.model.name} on {task.name}",
        sections=[Section("Curves", curves), Section("Task", [html.paragraph(task.about)])],
        lead=f"{config.train}, {result.rows[-1]['step']} steps of {config.batch_size}, "
        f"seed {config.seed}.",
        finding=f"{task.metric} {start:.4f} at the start, {last:.4f} at the end; best {best:.4f}, "
        f"after step {best_step}.",
    )
