"""One run: a pretrained encoder learns a task by LoRA, by its head alone, or as a whole.

    python -m experiments.finetune --config=configs/finetune.py --workdir=runs/finetune

The same command resumes a run that was stopped or killed, and ends with the same bits. Writes
config.json, metrics.jsonl, checkpoints/, results.json and report.html.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from experiments.launch import launch
from lora_jax import hub, training
from lora_jax.data import Task, encode, load_task, training_batches
from lora_jax.reports import (
    Curve,
    Section,
    curves_plot,
    html,
    installed_versions,
    plan,
    render_page,
    write_page,
    write_results,
)
from lora_jax.training.classifier import init_variables, loss, make_outputs, score
from lora_jax.training.labels import nearest

RULES = {"lora": training.LORA, "head": training.HEAD_ONLY, "full": training.FULL}


def defaults() -> ConfigDict:
    """Every setting of a run; a config overrides some of them."""
    config = ConfigDict()
    config.task = ConfigDict({"name": "docstrings"})
    config.task.options = ConfigDict({"train_per_topic": 100, "test_per_topic": 40})
    config.model = ConfigDict({"name": "", "path": "", "sha256": ""})
    config.model.update(dtype="float32", scan=True, remat="none")
    config.pooling = "mean"
    config.length = 32  # tokens of an example
    config.train = "lora"  # or "head", "full"
    config.targets = ("q_proj", "v_proj")
    config.method = ConfigDict({"rank": 8, "alpha": 16.0, "dropout": 0.0})
    # Devices by what they split; -1: all that the others leave. It changes no number.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    config.seed = 0
    config.steps = 300
    config.batch_size = 16
    config.optimizer = ConfigDict({"name": "adamw", "learning_rate": 1e-3, "schedule": "linear"})
    config.optimizer.update(warmup=0.1, weight_decay=0.01, clip=1.0)
    config.optimizer.groups = ConfigDict({"head": {"multiplier": 5.0}})
    config.evaluation_batch_size = 96
    config.evaluate_every = 100  # steps
    config.checkpoint_every = 100
    config.lock()
    return config


def main(config: ConfigDict, workdir: Path | None) -> None:
    """Trains, or prints the plan if there is no workdir."""
    console = Console(highlight=False, soft_wrap=True, quiet=not training.is_first())
    if config.steps < 1:
        raise ValueError(f"steps = {config.steps}: at least 1 is needed")
    if config.train not in RULES:
        raise ValueError(f"train = {config.train!r}; nearest: {nearest(config.train, list(RULES))}")

    mesh = training.make_mesh(config.mesh)
    rows = training.process_rows(mesh, config.batch_size)
    training.check_batch(mesh, "evaluation_batch_size", config.evaluation_batch_size)

    # ---- The task and the frozen base
    with training.together("reading the task and the base"):
        task = load_task(config.task.name, config.task.options)
        base = hub.load_model(
            config.model.path,
            dtype=config.model.dtype,
            sha256=config.model.sha256 or None,
            scan=config.model.scan,
            remat=config.model.remat,
            mesh=mesh,
        )
        train_set = encode(task.train, base.tokenizer, config.length)
        test_set = encode(task.test, base.tokenizer, config.length)
    batches = training_batches(train_set, config.batch_size, seed=config.seed, rows=rows)

    # ---- What trains, beside what is frozen
    lifted = lift(config, base) if config.train == "lora" else None
    key = jax.random.key(config.seed)
    init = lambda base, key: init_variables(base, lifted, task.outputs, key)
    variables = training.place(mesh, base, init, key, lifted.sites if lifted else ())
    labels = training.label(variables, RULES[config.train], lifted.frozen if lifted else ())
    optimizer = training.make_optimizer(config.optimizer, labels, config.steps)
    outputs = make_outputs(base, lifted, config.pooling)
    state, frozen, shardings = training.place_state(mesh, variables, labels, optimizer, key)
    step = training.make_step(partial(loss, outputs), optimizer, shardings)
    del variables  # the step donates the trainable ones
    console.print(f"parameters: {training.summary(training.join(state.trainable, frozen), labels)}")

    if workdir is None:
        console.print(lifted or f"no adapter: {config.train}", markup=False)
        console.print(plan.describe_task(task, train_set, base.tokenizer), markup=False)
        console.print(plan.describe_cost(step, state, frozen, next(batches)))
        return

    # ---- Training
    with training.together("opening the workdir"):
        if training.is_first():
            training.open_workdir(workdir, config.to_dict(), ignore=("mesh",))
    result = training.train(
        step,
        state,
        frozen,
        batches,
        steps=config.steps,
        workdir=workdir,
        identity=training.describe_run(
            base=config.model.sha256 or hub.hash_params(base.params),
            method=lora.LoRA(**config.method) if lifted else None,
            targets=[site.path for site in lifted.sites] if lifted else (),
            train=config.train,
            seed=config.seed,
        ),
        evaluate=partial(
            score, training.on_mesh(mesh, outputs), task, test_set, config.evaluation_batch_size
        ),
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        batch_sharding=shardings.batch,
        console=console,
    )
    if not training.is_first():
        return
    write_report(workdir, config, task, result)
    console.print(
        f"{task.metric} {result.last(f'eval/{task.metric}'):.4f}; {workdir / 'report.html'}"
    )


def lift(config: ConfigDict, base: hub.Pretrained) -> lora.Lifted:
    """Puts the adapter's factors beside the params of the encoder."""
    ids = jax.ShapeDtypeStruct((config.batch_size, config.length), "int32")
    method = lora.LoRA(**config.method)
    return lora.lift(base.apply, base.params, ids, ids, ids, method=method, targets=config.targets)


def write_report(workdir: Path, config: ConfigDict, task: Task, result: training.Result) -> None:
    """Writes results.json and report.html."""
    name, versions = f"eval/{task.metric}", installed_versions()
    last, (best_step, best) = result.last(name), result.best(name)
    scores = {task.metric: last, f"best_{task.metric}": best, "best_step": best_step}
    write_results(
        workdir / "results.json",
        {**scores, "loss": result.last("loss"), "config": config.to_dict(), "versions": versions},
    )
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
        lead=f"{config.train}, {config.steps} steps of {config.batch_size}, seed {config.seed}.",
        finding=f"{task.metric} {last:.4f} at the end; best {best:.4f}, after step {best_step}.",
    )
    write_page(workdir / "report.html", page)


def _curve(result: training.Result, metric: str) -> str:
    rows: Sequence[dict] = [row for row in result.rows if row.get(metric) is not None]
    curve = Curve(metric, [row["step"] for row in rows], [row[metric] for row in rows])
    return curves_plot([curve], y_label=metric)


if __name__ == "__main__":
    launch(main)
