"""Which modules should LoRA adapt? Accuracy against latency for several sets of target modules.

    python -m experiments.target_modules --config=configs/quickstart.py --workdir=runs/quickstart

Each set is trained with several seeds on one frozen pretrained base, beside two references: the
head alone, and full fine-tuning. A run that is finished is kept: the same command goes on from
there. Writes config.json, metrics.jsonl, results.json and report.html.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from experiments.launch import launch
from experiments.target_modules_report import REFERENCES, Outcome, print_outcomes, write_report
from lora_jax import hub, training
from lora_jax.data import Examples, Task, encode, evaluation_batches, load_task, training_batches
from lora_jax.evaluation import Latency, mean_interval, measure_latency
from lora_jax.reports import plan
from lora_jax.training.classifier import Outputs, init_variables, loss, make_outputs, score
from lora_jax.training.metrics import Row, read_rows
from lora_jax.training.progress import peak_memory
from lora_jax.training.workdir import write_text

HEAD, FULL = REFERENCES
Runs = dict[tuple[str, int], Sequence[Row]]  # (name of a choice, seed) -> its metrics


class Choice(NamedTuple):
    """What is trained: an adapter and the head, the head alone, or everything.

    Attributes:
      name: "o_proj+fc2", or one of the references.
      lifted: the encoder with an adapter, if it has one.
      labels: which variables train.
      trainable: how many parameters those are.
      optimizer: of these labels.
      step: one update, compiled once for all seeds.
      outputs: the function that is trained.
    """

    name: str
    lifted: lora.Lifted | None
    labels: Any
    trainable: int
    optimizer: training.Optimizer
    step: Any
    outputs: Outputs


def defaults() -> ConfigDict:
    """Every setting of the study; a config overrides some of them."""
    config = ConfigDict()
    config.task = ConfigDict({"name": "docstrings"})
    config.task.options = ConfigDict({"train_per_topic": 100, "test_per_topic": 40})
    config.model = ConfigDict({"name": "", "path": "", "sha256": ""})
    config.model.update(dtype="float32", scan=True)
    config.pooling = "mean"
    config.length = 32  # tokens of an example
    config.target_sets = ("q_proj+v_proj", "o_proj", lora.ALL_LINEAR)
    config.method = ConfigDict({"rank": 8, "alpha": 16.0, "dropout": 0.0})
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
    started, console = time.perf_counter(), Console(highlight=False, soft_wrap=True)
    check(config)

    # ---- The task, the frozen base, and what is compared on it
    task = load_task(config.task.name, config.task.options)
    base = hub.load_model(
        config.model.path,
        dtype=config.model.dtype,
        sha256=config.model.sha256 or None,
        scan=config.model.scan,
    )
    train_set = encode(task.train, base.tokenizer, config.length)
    test_set = encode(task.test, base.tokenizer, config.length)
    choices = make_choices(config, task, base, train_set)
    console.print(
        f"{len(choices)} choices x {len(config.seeds)} seeds x {config.steps} steps of "
        f"{config.batch_size} examples of {config.length} tokens"
    )
    if workdir is None:
        print_plan(console, config, task, base, choices, train_set)
        return

    # ---- Training: every choice with every seed, but for the runs that an earlier start finished
    training.open_workdir(workdir, config.to_dict())
    log = workdir / "metrics.jsonl"
    runs = keep_finished_runs(log)
    for choice in choices:
        missing = [seed for seed in config.seeds if (choice.name, seed) not in runs]
        if len(missing) < len(config.seeds):
            console.print(f"{choice.name}: {len(config.seeds) - len(missing)} seeds done before")
        try:
            new = train_choice(config, task, base, choice, missing, train_set, test_set)
            for seed, rows in new:
                runs[choice.name, seed] = rows
                append_run(log, choice.name, seed, rows)
        except (SystemExit, KeyboardInterrupt):
            console.print(f"Finished runs are in {log}: the same command goes on from there.")
            raise

    # ---- Latency of all choices side by side, and the report
    latencies = measure_choices(config, base, choices, test_set)
    outcomes = [
        make_outcome(
            choice,
            [runs[choice.name, seed] for seed in config.seeds],
            task.metric,
            latencies,
        )
        for choice in choices
    ]
    write_report(workdir, config, task, outcomes)
    print_outcomes(console, task, outcomes)
    seconds, memory = time.perf_counter() - started, peak_memory() / 2**30
    console.print(f"{workdir / 'report.html'} | {seconds:.0f} s | {memory:.2f} GiB at most")


def check(config: ConfigDict) -> None:
    """Refuses what could only fail after hours."""
    seeds = list(config.seeds)
    if not seeds or len(set(seeds)) < len(seeds) or any(type(seed) is not int for seed in seeds):
        raise ValueError(f"seeds = {seeds}: name one or more different whole numbers")
    if config.steps < 2:
        raise ValueError(f"steps = {config.steps}: the first compiles, so at least 2 are needed")
    if config.latency.rounds < 1:
        raise ValueError(f"latency.rounds = {config.latency.rounds}: at least 1 is needed")


def make_choices(
    config: ConfigDict, task: Task, base: hub.Pretrained, examples: Examples
) -> list[Choice]:
    """Makes the two references, and a choice for each set of targets; nothing is compiled yet."""
    make = partial(make_choice, config, task, base)
    inputs = [examples[name][: config.batch_size] for name in ("ids", "mask", "type_ids")]
    method = lora.make_method(**config.method)
    choices = [make(HEAD, training.HEAD_ONLY, config.optimizers.head)]
    # A flag on the command line gives one string, such as "o_proj,q_proj+v_proj".
    for name in dict.fromkeys(",".join(config.target_sets).split(",")):
        targets = name.split("+")
        lifted = lora.lift(base.apply, base.params, *inputs, method=method, targets=targets)
        choices.append(make(name, training.LORA, config.optimizers.lora, lifted))
    return [*choices, make(FULL, training.FULL, config.optimizers.full)]


def make_choice(
    config: ConfigDict,
    task: Task,
    base: hub.Pretrained,
    name: str,
    rules: Sequence[tuple[str, str | None]],
    optimizer_config: ConfigDict,
    lifted: lora.Lifted | None = None,
) -> Choice:
    """Makes what all seeds of a choice share."""
    variables = jax.eval_shape(
        partial(init_variables, base, lifted, task.outputs), jax.random.key(0)
    )
    labels = training.label(variables, rules, lifted.frozen if lifted else ())
    counts = training.summary(variables, labels)
    trainable = sum(counts.values()) - counts.get(training.FROZEN, 0)
    optimizer = training.make_optimizer(optimizer_config, labels, config.steps)
    outputs = make_outputs(base, lifted, config.pooling)
    step = training.make_step(partial(loss, outputs), optimizer)
    return Choice(name, lifted, labels, trainable, optimizer, step, outputs)


def start(
    task: Task, base: hub.Pretrained, choice: Choice, key: jax.Array
) -> tuple[training.TrainState, Any]:
    """Makes the state of a run, and what is frozen."""
    variables = init_variables(base, choice.lifted, task.outputs, key)
    return training.init_state(variables, choice.labels, choice.optimizer, key)


def train_choice(
    config: ConfigDict,
    task: Task,
    base: hub.Pretrained,
    choice: Choice,
    seeds: Sequence[int],
    train_set: Examples,
    test_set: Examples,
) -> Iterator[tuple[int, Sequence[Row]]]:
    """Trains a choice with each seed, all by one compiled step."""
    outputs = jax.jit(choice.outputs)
    evaluate = partial(score, outputs, task, test_set, config.evaluation_batch_size)
    for seed in seeds:
        state, frozen = start(task, base, choice, jax.random.key(seed))
        batches = training_batches(train_set, config.batch_size, seed=seed)
        print(f"{choice.name}, seed {seed}", flush=True)
        result = training.train(
            choice.step, state, frozen, batches, steps=config.steps, evaluate=evaluate
        )
        yield seed, result.rows


def keep_finished_runs(log: Path) -> Runs:
    """Reads the log, and takes out of it what a killed run left of itself."""
    found: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in read_rows(log):
        found[row["choice"], row["seed"]].append(row)
    # The evaluation, which has no loss, is the last row of a run.
    runs: Runs = {run: rows for run, rows in found.items() if "loss" not in rows[-1]}
    write_text(log, "".join(json.dumps(row) + "\n" for rows in runs.values() for row in rows))
    return runs


def append_run(log: Path, name: str, seed: int, rows: Sequence[Row]) -> None:
    """Adds a finished run to the log."""
    with log.open("a") as file:
        file.writelines(json.dumps({"choice": name, "seed": seed, **row}) + "\n" for row in rows)


def measure_choices(
    config: ConfigDict, base: hub.Pretrained, choices: Sequence[Choice], examples: Examples
) -> dict[str, Latency]:
    """Times every choice in turn, with its adapter beside the base and merged into it."""
    batch, _ = next(evaluation_batches(examples, config.latency.batch_size))
    batch = jax.device_put(batch)
    without_adapter = jax.jit(make_outputs(base, None, config.pooling))
    calls = {}
    for choice in choices:
        variables = init_variables(base, choice.lifted, 1, jax.random.key(0))
        outputs, merged = without_adapter, variables
        if choice.lifted is not None:
            outputs = jax.jit(choice.outputs)
            params = choice.lifted.merge(base.params, variables["adapter"])
            merged = {"params": params, "head": variables["head"]}
        calls[f"{choice.name}, unmerged"] = partial(outputs, variables, batch)
        calls[f"{choice.name}, merged"] = partial(without_adapter, merged, batch)
    return measure_latency(calls, rounds=config.latency.rounds)


def make_outcome(
    choice: Choice, runs: Sequence[Sequence[Row]], metric: str, latencies: Mapping[str, Latency]
) -> Outcome:
    """Gathers the runs of a choice, one a seed, and what it costs."""
    scores = tuple(rows[-1][f"eval/{metric}"] for rows in runs)
    return Outcome(
        name=choice.name,
        trainable=choice.trainable,
        scores=scores,
        score=mean_interval(scores),
        # The first step of a run may compile.
        step_seconds=float(np.median([r["seconds"] for rows in runs for r in rows[1:-1]])),
        unmerged=latencies[f"{choice.name}, unmerged"],
        merged=latencies[f"{choice.name}, merged"],
        losses=[[row["loss"] for row in rows[:-1]] for rows in runs],
    )


def print_plan(
    console: Console,
    config: ConfigDict,
    task: Task,
    base: hub.Pretrained,
    choices: Sequence[Choice],
    train_set: Examples,
) -> None:
    """Says what would be done: the task, the base, and the sites and the cost of each choice."""
    console.print(plan.describe_task(task, train_set, base.tokenizer), markup=False)
    console.print(f"base: {config.model.name}, {lora.count_parameters(base.params):,} parameters")
    batch = next(training_batches(train_set, config.batch_size, seed=0))
    for choice in choices:
        state, frozen = jax.eval_shape(partial(start, task, base, choice), jax.random.key(0))
        console.print(f"\n{choice.name}: {choice.trainable:,} trainable parameters with the head")
        console.print(plan.describe_cost(choice.step, state, frozen, batch))
        if choice.lifted is not None:
            console.print(str(choice.lifted), markup=False)


if __name__ == "__main__":
    launch(main)
