"""Which modules should LoRA adapt? Accuracy against latency for several sets of target modules.

    python -m experiments.target_modules --config=configs/quickstart.py --workdir=runs/quickstart

Each set is trained with several seeds on one frozen pretrained base, beside two references: the
head alone, and full fine-tuning. A run that is finished is kept: the same command goes on from
there. Writes config.json, metrics.jsonl, results.json and report.html.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from experiments.launch import launch
from lora_jax import hub, training
from lora_jax.analysis.pareto import Candidate, Recommendation, recommend
from lora_jax.data import Task, encode, evaluation_batches, load_task, training_batches
from lora_jax.evaluation import METRICS, Interval, Latency, mean_interval, measure_latency
from lora_jax.models.heads import classify, init_classifier, pool
from lora_jax.reports import (
    Column,
    Curve,
    Section,
    curves_plot,
    html,
    installed_versions,
    print_table,
    render_page,
    tradeoff_plot,
    write_page,
    write_results,
)
from lora_jax.training.metrics import read_rows
from lora_jax.training.progress import peak_memory
from lora_jax.training.workdir import write_text

HEAD, FULL = "head only", "full fine-tuning"

Examples = Mapping[str, np.ndarray]
Variables = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]
Runs = dict[tuple[str, int], Rows]  # (name of a choice, seed) -> its metrics


class Choice(NamedTuple):
    """What is trained: an adapter and the head, the head alone, or everything."""

    name: str
    rules: Sequence[tuple[str, str | None]]
    optimizer: ConfigDict
    lifted: lora.Lifted | None = None


class Outcome(NamedTuple):
    """What a choice achieved, and what it costs."""

    name: str
    trainable: int
    scores: tuple[float, ...]
    score: Interval
    step_ms: float
    unmerged: Latency
    merged: Latency


def defaults() -> ConfigDict:
    """Every setting of the study; a config overrides some of them."""
    config = ConfigDict()
    config.task = ConfigDict({"name": "docstrings", "options": {}})
    config.model = ConfigDict({"path": "", "sha256": "", "dtype": "float32", "scan": False})
    config.pooling = "mean"
    config.length = 32  # tokens of an example
    config.target_sets = ("q_proj+v_proj", "o_proj", lora.ALL_LINEAR)
    config.method = ConfigDict({"rank": 8, "alpha": 16.0})
    config.seeds = (0, 1, 2)
    config.steps = 100
    config.batch_size = 16
    config.optimizers = ConfigDict()
    config.optimizers.lora = _adamw(learning_rate=1e-3, head=5.0)
    config.optimizers.head = _adamw(learning_rate=5e-3)
    config.optimizers.full = _adamw(learning_rate=2e-4, head=25.0)
    config.evaluation_batch_size = 96
    config.latency = ConfigDict({"batch_size": 1, "rounds": 50})
    config.lock()
    return config


def _adamw(learning_rate: float, head: float = 1.0) -> ConfigDict:
    config = ConfigDict({"name": "adamw", "learning_rate": learning_rate, "schedule": "linear"})
    config.update(warmup=0.1, weight_decay=0.01, clip=1.0)
    config.groups = ConfigDict({"head": {"multiplier": head}})  # the head starts from nothing
    return config


def main(config: ConfigDict, workdir: Path | None) -> None:
    """Runs the study, or prints its plan if there is no workdir."""
    started, console = time.perf_counter(), Console()

    # ---- The task, the frozen base, and what is compared on it
    task = load_task(config.task.name, config.task.options)
    model = config.model
    base = hub.load_model(
        model.path, dtype=model.dtype, sha256=model.sha256 or None, scan=model.scan
    )
    train_set = encode(task.train, base.tokenizer, config.length)
    test_set = encode(task.test, base.tokenizer, config.length)
    choices = make_choices(config, base, train_set)
    print_plan(console, config, task, base, choices)
    if workdir is None:
        return

    # ---- Training: every choice with every seed, but for the runs that an earlier start finished
    training.open_workdir(workdir, config.to_dict())
    log = workdir / "metrics.jsonl"
    runs = keep_finished_runs(log)
    for choice in choices:
        missing = [seed for seed in config.seeds if (choice.name, seed) not in runs]
        for seed, rows in train_choice(config, task, base, choice, missing, train_set, test_set):
            runs[choice.name, seed] = rows
            append_run(log, choice.name, seed, rows)

    # ---- Latency of all choices side by side, and what follows from it all
    latencies = measure_choices(config, base, choices, test_set)
    outcomes = []
    for choice in choices:
        own = [runs[choice.name, seed] for seed in config.seeds]
        outcomes.append(make_outcome(task, base, choice, own, latencies))
    candidates = [as_candidate(outcome) for outcome in outcomes]
    sets = [candidate for candidate in candidates if candidate.name not in (HEAD, FULL)]
    recommended = recommend(sets, cost="latency", format_cost="{:.2f} ms")

    # ---- The report
    seconds = time.perf_counter() - started
    write_report(workdir, config, task, outcomes, recommended, runs, seconds)
    print_table(outcomes, columns_of(task), console=console)
    console.print(f"\nRecommended: {recommended.name}. {recommended.reason}", highlight=False)
    console.print(f"{workdir / 'report.html'} | {seconds:.0f} s | {peak_memory() / 2**20:,.0f} MiB")


# ---- What is compared


def make_choices(config: ConfigDict, base: hub.Pretrained, examples: Examples) -> list[Choice]:
    """Makes the two references and a choice for each set of targets."""
    ids = examples["ids"][: config.batch_size]
    optimizers = config.optimizers
    choices = [Choice(HEAD, training.HEAD_ONLY, optimizers.head)]
    # A flag on the command line gives one string, "o_proj,q_proj+v_proj".
    names = [name for names in config.target_sets for name in names.split(",")]
    for name in names:
        lifted = lora.lift(
            *(base.apply, base.params, ids, ids, ids),
            method=lora.LoRA(**config.method),
            targets=name.split("+"),
        )
        choices.append(Choice(name, training.LORA, optimizers.lora, lifted))
    return [*choices, Choice(FULL, training.FULL, optimizers.full)]


def make_variables(
    choice: Choice, base: hub.Pretrained, outputs: int, key: jax.Array
) -> dict[str, Any]:
    """Puts a new head, and new factors if the choice has any, beside the params of the base."""
    head_key, adapter_key = jax.random.split(key)
    variables = {"params": base.params}
    variables["head"] = init_classifier(head_key, base.config.dim, outputs)
    if choice.lifted is not None:
        variables["adapter"] = choice.lifted.init(adapter_key, base.params)
    return variables


def predict(
    base: hub.Pretrained, choice: Choice, pooling: str, variables: Variables, batch: Examples
) -> jax.Array:
    """Computes the outputs, of shape [batch, outputs]."""
    inputs = batch["ids"], batch["mask"], batch["type_ids"]
    if choice.lifted is None:
        hidden = base.apply(variables["params"], *inputs)
    else:
        hidden = choice.lifted(variables["params"], variables["adapter"], *inputs)
    return classify(variables["head"], pool(hidden, batch["mask"], pooling))


# ---- Training


def train_choice(
    config: ConfigDict,
    task: Task,
    base: hub.Pretrained,
    choice: Choice,
    seeds: Sequence[int],
    train_set: Examples,
    test_set: Examples,
) -> Iterator[tuple[int, Rows]]:
    """Trains a choice with each seed; one compiled step serves them all."""
    if not seeds:
        return
    outputs = partial(predict, base, choice, config.pooling)
    labels = training.label(
        make_variables(choice, base, task.outputs, jax.random.key(0)), choice.rules
    )
    optimizer = training.make_optimizer(choice.optimizer, labels, config.steps)
    step = training.make_step(partial(loss, outputs), optimizer)
    evaluate = partial(score, jax.jit(outputs), task, test_set, config.evaluation_batch_size)
    for seed in seeds:
        key = jax.random.key(seed)
        variables = make_variables(choice, base, task.outputs, key)
        state, frozen = training.init_state(variables, labels, optimizer, key)
        batches = training_batches(train_set, config.batch_size, seed=seed)
        print(f"{choice.name}, seed {seed}")
        result = training.train(step, state, frozen, batches, steps=config.steps, evaluate=evaluate)
        yield seed, result.rows


def loss(
    outputs_of: Any, variables: Variables, batch: Examples, _: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of classes, or the squared error of scores; its mean over the batch."""
    outputs, labels = outputs_of(variables, batch), batch["label"]
    if labels.dtype == np.int32:
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean(), {}
    return optax.squared_error(outputs[:, 0], labels).mean(), {}


def score(
    outputs_of: Any, task: Task, examples: Examples, batch_size: int, variables: Variables
) -> dict[str, float]:
    """Computes the metric of the task on examples."""
    batches = evaluation_batches(examples, batch_size)
    outputs = np.concatenate([np.asarray(outputs_of(variables, b))[:real] for b, real in batches])
    predicted = outputs.argmax(-1) if task.classes else outputs[:, 0]
    return {task.metric: METRICS[task.metric](predicted, examples["label"])}


# ---- The log of finished runs


def keep_finished_runs(log: Path) -> Runs:
    """Reads the log, and takes away what a killed run left of itself."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in read_rows(log):
        found[row["choice"], row["seed"]].append(row)
    # The evaluation is the last row of a run.
    runs: Runs = {run: rows for run, rows in found.items() if "loss" not in rows[-1]}
    write_text(log, "".join(json.dumps(row) + "\n" for rows in runs.values() for row in rows))
    return runs


def append_run(log: Path, name: str, seed: int, rows: Rows) -> None:
    """Adds a finished run to the log."""
    with log.open("a") as file:
        file.writelines(json.dumps({"choice": name, "seed": seed, **row}) + "\n" for row in rows)


# ---- Latency


def measure_choices(
    config: ConfigDict, base: hub.Pretrained, choices: Sequence[Choice], examples: Examples
) -> dict[str, Latency]:
    """Times every choice in turn, its adapter beside the base and merged into it."""
    batch, _ = next(evaluation_batches(examples, config.latency.batch_size))
    batch = jax.device_put(batch)
    plain = jax.jit(partial(predict, base, choices[0], config.pooling))
    calls = {}
    for choice in choices:
        variables = make_variables(choice, base, 1, jax.random.key(0))
        compiled, merged = plain, variables
        if choice.lifted is not None:
            compiled = jax.jit(partial(predict, base, choice, config.pooling))
            params = choice.lifted.merge(base.params, variables["adapter"])
            merged = {"params": params, "head": variables["head"]}
        calls[f"{choice.name}, unmerged"] = partial(compiled, variables, batch)
        calls[f"{choice.name}, merged"] = partial(plain, merged, batch)
    return measure_latency(calls, rounds=config.latency.rounds)


# ---- Outcomes


def make_outcome(
    task: Task,
    base: hub.Pretrained,
    choice: Choice,
    runs: Sequence[Rows],
    latencies: Mapping[str, Latency],
) -> Outcome:
    """Gathers the runs of a choice, one a seed, and its latencies."""
    scores = tuple(rows[-1][f"eval/{task.metric}"] for rows in runs)
    # The first step of a run may compile.
    seconds = [row["seconds"] for rows in runs for row in rows[1:] if "seconds" in row]
    return Outcome(
        choice.name,
        count_trainable(choice, base, task),
        scores,
        mean_interval(scores),
        1000 * float(np.median(seconds)),
        latencies[f"{choice.name}, unmerged"],
        latencies[f"{choice.name}, merged"],
    )


def count_trainable(choice: Choice, base: hub.Pretrained, task: Task) -> int:
    """Counts the parameters that train, those of the head too."""
    make = partial(make_variables, choice, base, task.outputs)
    variables = jax.eval_shape(make, jax.random.key(0))
    counts = training.summary(variables, training.label(variables, choice.rules))
    return sum(count for name, count in counts.items() if name != training.FROZEN)


def as_candidate(outcome: Outcome) -> Candidate:
    """Its score against its latency in milliseconds, with the adapter beside the base."""
    latency = outcome.unmerged
    low, high = (1000 * end for end in latency.interval)
    return Candidate(
        outcome.name, outcome.scores, 1000 * latency.median, low, high, outcome.trainable
    )


# ---- What a person sees


def print_plan(
    console: Console,
    config: ConfigDict,
    task: Task,
    base: hub.Pretrained,
    choices: Sequence[Choice],
) -> None:
    """Says what will be done: task, base, sites of each set, and how many runs."""
    say = partial(console.print, highlight=False, soft_wrap=True)
    say(f"{task.name}: {len(task.train):,} training and {len(task.test):,} test examples")
    say(f"{task.about}\nclasses: {', '.join(task.classes) or 'none, a score'}")
    say(f"base: {config.model.path}, {lora.count_parameters(base.params):,} parameters")
    for choice in choices:
        say(f"\n{choice.name}: {count_trainable(choice, base, task):,} trainable parameters")
        if choice.lifted is not None:
            say(str(choice.lifted))
    say(
        f"\n{len(choices)} choices x {len(config.seeds)} seeds x {config.steps} steps of "
        f"{config.batch_size} x {config.length} tokens\n"
    )


def columns_of(task: Task) -> list[Column]:
    """The columns of the table."""
    milliseconds = lambda latency: f"{1000 * latency.median:.2f}"
    return [
        Column("name", "target set"),
        Column("trainable", "trainable parameters", "{:,}"),
        Column("score", task.metric, lambda s: f"{s.mean:.3f} ± {s.half_width:.3f}"),
        Column("step_ms", "step, ms", "{:.0f}"),
        Column("unmerged", "latency unmerged, ms", milliseconds),
        Column("merged", "latency merged, ms", milliseconds),
    ]


def write_report(
    workdir: Path,
    config: ConfigDict,
    task: Task,
    outcomes: Sequence[Outcome],
    recommended: Recommendation,
    runs: Runs,
    seconds: float,
) -> None:
    """Writes results.json and report.html."""
    results = {"recommended": recommended, "outcomes": outcomes, "seconds": seconds}
    write_results(workdir / "results.json", {**results, "versions": installed_versions()})
    plot = tradeoff_plot(
        [as_candidate(outcome) for outcome in outcomes],
        x_label=f"latency of a batch of {config.latency.batch_size}, adapter unmerged, ms",
        y_label=task.metric,
        recommended=recommended.name,
    )
    curves = [
        Curve(o.name, range(1, config.steps + 1), [_losses(runs[o.name, s]) for s in config.seeds])
        for o in outcomes
    ]
    table = html.table(outcomes, columns_of(task), highlight=recommended.name)
    seeds = f"{len(config.seeds)} seeds; ± is the 95 % t-interval of the mean over them."
    page = render_page(
        "Which modules should LoRA adapt?",
        [
            Section("Results", [table, html.paragraph(seeds), html.figure(plot, PLOT_CAPTION)]),
            Section("Learning curves", [html.figure(curves_plot(curves), CURVES_CAPTION)]),
            Section("Task", [html.paragraph(task.about)]),
            Section(
                "How to repeat it",
                [
                    html.command(
                        shlex.join(["python", "-m", "experiments.target_modules", *sys.argv[1:]])
                    ),
                    html.settings(config.to_dict()),
                    html.fields(installed_versions()),
                ],
            ),
        ],
        lead=f"{config.model.path} on {task.name}, {config.steps} steps of {config.batch_size}.",
        finding=f"Recommended: {recommended.name}. {recommended.reason}",
    )
    write_page(workdir / "report.html", page)


PLOT_CAPTION = (
    "Up and to the left is better. Bars are 95 % intervals: of the mean over seeds, and of the "
    "median latency."
)
CURVES_CAPTION = "Training loss, the mean over seeds; the band spans all of them."


def _losses(rows: Rows) -> list[float]:
    return [row["loss"] for row in rows if "loss" in row]


if __name__ == "__main__":
    launch(main)
