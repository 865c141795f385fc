"""What a fine-tuning run found: results.json for programs, report.html for people."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from lora_jax import training
from lora_jax.data import Task
from lora_jax.reports import (
    Curve,
    Section,
    curves_plot,
    html,
    installed_versions,
    render_page,
    write_page,
    write_results,
)


def write_report(
    workdir: Path, config: ConfigDict, task: Task, start: float, result: training.Result
) -> None:
    """Writes results.json and report.html; `start` is the metric before the first step."""
    name, versions = f"eval/{task.metric}", installed_versions()
    better = min if config.best.mode == "min" else max
    last, (best_step, best) = result.last(name), result.best(name, better)
    scores = {
        f"start_{task.metric}": start,
        task.metric: last,
        f"best_{task.metric}": best,
        "best_step": best_step,
    }
    write_results(
        workdir / "results.json",
        {**scores, "loss": result.last("loss"), "config": config.to_dict(), "versions": versions},
    )
    steps = result.rows[-1]["step"]
    page = render_page(
        f"{config.model.name} on {task.name}",
        [
            Section(
                "Curves",
                [
                    html.figure(_curve(result, "loss"), "Training loss."),
                    html.figure(_curve(result, name), f"{task.metric} on the test set."),
                ],
            ),
            Section("Task", [html.paragraph(task.about)]),
            Section(
                "How to repeat it",
                [
                    html.command(
                        shlex.join(["python", "-m", "experiments.finetune", *sys.argv[1:]])
                    ),
                    html.settings(config.to_dict()),
                    html.fields(versions),
                ],
            ),
        ],
        lead=f"{config.train}, {steps} steps of {config.batch_size}, seed {config.seed}.",
        finding=f"{task.metric} {start:.4f} at the start, {last:.4f} at the end; best {best:.4f}, "
        f"after step {best_step}.",
    )
    write_page(workdir / "report.html", page)


def _curve(result: training.Result, metric: str) -> str:
    rows: Sequence[dict] = [row for row in result.rows if row.get(metric) is not None]
    curve = Curve(metric, [row["step"] for row in rows], [row[metric] for row in rows])
    return curves_plot([curve], y_label=metric)
