"""One base, many adapters: what a switch costs, whether the base comes back, what a mix loses.

    python -m experiments.task_switching --config=configs/task_switching.py --workdir=runs/switching

trains an adapter for each of several tasks on one pretrained encoder, with several seeds, all in
one compiled program, and then switches between them. Of adapters that exist, in PEFT's files, it
measures switching alone:

    python -m experiments.task_switching --config=configs/task_switching.py --workdir=runs/theirs
        --config.model.path=DIR --config.adapters=DIR,DIR

The same command goes on from the adapters that are finished. Writes config.json, metrics.jsonl,
adapters/, results.json and report.html.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from experiments.encoder_adapters import (
    TaskSets,
    Wanted,
    describe_alone,
    directories,
    inputs_of,
    load_sets,
    read_or_train,
)
from experiments.launch import launch
from experiments.settings import check_counts, check_seeds, listed
from experiments.task_switching_measures import (
    Switchable,
    measure_interference,
    measure_mixed_batch,
    measure_restoration,
    measure_switches,
)
from experiments.task_switching_report import write_report
from lora_jax import hub, training
from lora_jax.adapters.recipe import KINDS
from lora_jax.data.names import known


def defaults() -> ConfigDict:
    """Every setting of the study; a config overrides some of them."""
    config = ConfigDict()
    config.model = ConfigDict({"name": "", "path": "", "sha256": "", "dtype": "float32"})
    config.adapters = ""  # DIR,DIR of PEFT's files; then nothing is trained or scored
    config.tasks = ConfigDict()  # name -> options of the task
    config.pooling = "mean"
    config.length = 24  # tokens of an example
    config.targets = ("q_proj", "v_proj")
    config.method = ConfigDict({"rank": 8, "alpha": 16.0})
    config.seeds = (0, 1, 2)
    config.steps = 80
    config.batch_size = 8
    config.optimizer = ConfigDict({"name": "adamw", "learning_rate": 2e-3, "schedule": "linear"})
    config.optimizer.update(warmup=0.1, weight_decay=0.01, clip=1.0)
    config.optimizer.groups = ConfigDict({"head": {"multiplier": 10.0}})
    config.together = 15  # adapters that are trained together, at most
    config.evaluation_examples = 288  # of each test set, evenly spread over it, at most; 0: all
    config.evaluation_batch_size = 96
    config.cycles = 20  # in each, every adapter is merged and taken out again
    config.rounds = 30  # of timing
    config.rows = 6  # of the batch that is timed, and mixed
    config.kinds = ("cat", "linear", "ties", "dare_linear")  # of combining, as of lora.combine
    config.weights = (1.0, 0.5)  # of each adapter in a combination
    config.density = 0.5  # that the pruning kinds keep
    config.lock()
    return config


def main(config: ConfigDict, workdir: Path | None) -> None:
    """Trains or loads adapters and switches between them, or prints the plan without a workdir."""
    started, console = time.perf_counter(), Console(highlight=False, soft_wrap=True)
    check(config)
    base = hub.load_model(
        config.model.path, dtype=config.model.dtype, sha256=config.model.sha256 or None
    )
    folders = directories(config)
    if folders:
        switchable = load_adapters(config, base, folders)
        trained: dict[str, tuple[TaskSets, list[dict[str, Any]]]] = {}
        if workdir is None:
            console.print(f"{len(folders)} adapters of\n{switchable.lifted}", markup=False)
            return
        training.open_workdir(workdir, config.to_dict())
    else:
        wanted = every_adapter(config, base)
        if workdir is None:
            print_plan(console, config, base, wanted)
            return
        training.open_workdir(workdir, config.to_dict())
        found = read_or_train(config, base, wanted, workdir, console)
        trained = by_task(wanted, found)
        first = wanted[:: len(config.seeds)]  # of each task
        folders = [workdir / "adapters" / one.name for one in first]
        ids = first[0].sets.test
        inputs = tuple(jnp.asarray(ids[n][: config.rows]) for n in ("ids", "mask", "type_ids"))
        factors = [variables[0]["adapter"] for _, variables in trained.values()]
        switchable = Switchable(base, first[0].lifted, list(trained), factors, folders, inputs)

    # ---- Switching, and what is left of the base after it
    console.print("switching")
    switches = measure_switches(switchable, config.rounds)
    restoration = measure_restoration(switchable, config.cycles)
    mixed = measure_mixed_batch(switchable, config.rounds)

    # ---- Several adapters in one
    console.print("combining")
    interference = measure_interference(config, base, switchable.lifted, trained)
    write_report(workdir, config, switchable, switches, restoration, mixed, interference)
    console.print(f"{workdir / 'report.html'} | {time.perf_counter() - started:.0f} s")


def check(config: ConfigDict) -> None:
    """Refuses what could only fail after training."""
    check_counts(config, "cycles", "rounds", "rows")
    folders = directories(config)
    if len(folders) == 1 or (not folders and len(config.tasks) < 2):
        raise ValueError("to switch, two adapters or two tasks are needed at least")
    if folders:
        return
    check_seeds(config.seeds)
    for kind in listed(config.kinds):
        known(kind, KINDS, "kind")
    if not 0 < config.density <= 1:
        raise ValueError(f"density = {config.density}: a share in (0, 1] is needed")
    check_counts(config, "steps", "together")


def load_adapters(config: ConfigDict, base: hub.Pretrained, folders: list[Path]) -> Switchable:
    """Loads adapters that can be stacked: of the same weights, methods and ranks."""
    rng = np.random.default_rng(0)
    shape = (config.rows, config.length)
    ids = jnp.asarray(rng.integers(1, base.config.vocab_size, shape), jnp.int32)
    is_decoder = hasattr(base.config, "eos_ids")
    inputs = (ids,) if is_decoder else (ids, jnp.ones_like(ids))
    found = [hub.lift_peft(folder, base.apply, base.params, *inputs) for folder in folders]
    first = found[0][0]
    for folder, (lifted, _) in zip(folders[1:], found[1:], strict=True):
        if [(s.weight, s.method) for s in lifted.sites] != [
            (s.weight, s.method) for s in first.sites
        ]:
            raise ValueError(
                f"{folder} and {folders[0]} differ in weights, methods or ranks, so they are no "
                "entries of one stack; lora.AdapterPool serves adapters that differ"
            )
    factors = [factors for _, factors in found]
    return Switchable(base, first, [f.name for f in folders], factors, folders, inputs)


def every_adapter(config: ConfigDict, base: hub.Pretrained) -> list[Wanted]:
    """Each task with each seed; the factors of all have the same shapes."""
    method, targets = lora.make_method(**config.method), listed(config.targets)
    lifted = lora.lift(base.apply, base.params, *inputs_of(config), method=method, targets=targets)
    wanted = []
    for task, options in config.tasks.items():
        sets = load_sets(task, options.to_dict(), base, config.length, config.evaluation_examples)
        for seed in config.seeds:
            logged = {"task": task, "seed": seed}
            wanted.append(Wanted(f"{task}-seed{seed}", sets, lifted, method, seed, logged))
    return wanted


def by_task(
    wanted: list[Wanted], found: list[dict[str, Any]]
) -> dict[str, tuple[TaskSets, list[dict[str, Any]]]]:
    """Each task with the adapters and heads of all its seeds."""
    trained: dict[str, tuple[TaskSets, list[dict[str, Any]]]] = {}
    for one, variables in zip(wanted, found, strict=True):
        trained.setdefault(one.logged["task"], (one.sets, []))[1].append(variables)
    return trained


def print_plan(
    console: Console, config: ConfigDict, base: hub.Pretrained, wanted: list[Wanted]
) -> None:
    """Says what would be trained."""
    for one in wanted[:: len(config.seeds)]:
        count = f"{len(one.sets.task.train):,} training examples"
        console.print(f"{one.sets.task.name}: {count}", markup=False)
    console.print(f"{len(config.seeds)} seeds x {config.steps} steps, {config.together} at a time")
    console.print(f"one alone: {describe_alone(config, base, wanted[0])}")
    console.print(str(wanted[0].lifted), markup=False)


if __name__ == "__main__":
    launch(main)
