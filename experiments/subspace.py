"""What did LoRA learn? Subspaces of adapters against chance, amplification, spectra, intruders.

    python -m experiments.subspace --config=configs/subspace.py --workdir=runs/subspace

trains adapters of several ranks and seeds on one pretrained encoder, in one compiled program, and
compares what they learnt (Hu et al. 2021, sections 7.2 and 7.3). Of adapters that exist, in PEFT's
files,

    python -m experiments.subspace --config=configs/subspace.py --workdir=runs/theirs
        --config.model.path=DIR --config.adapters=DIR,DIR

compares these, and trains nothing. The same command goes on from the adapters that are finished.
Writes config.json, metrics.jsonl, adapters/, phi.npz, results.json and report.html.
"""

from __future__ import annotations

import time
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from experiments.encoder_adapters import (
    Wanted,
    describe_alone,
    directories,
    inputs_of,
    load_sets,
    read_or_train,
    start_of,
)
from experiments.launch import launch
from experiments.settings import check_counts, check_ranks, check_seeds, listed
from experiments.subspace_measures import Pair, compare_pairs, measure_adapter
from experiments.subspace_report import write_report
from lora_jax import hub, training
from lora_jax.analysis.change import SIDES
from lora_jax.analysis.compare import Adapter, describe_adapter, shared_paths
from lora_jax.data.names import known
from lora_jax.reports import plan
from lora_jax.training.metrics import read_rows


def defaults() -> ConfigDict:
    """Every setting of the study; a config overrides some of them."""
    config = ConfigDict()
    config.model = ConfigDict({"name": "", "path": "", "sha256": "", "dtype": "float32"})
    config.adapters = ""  # DIR,DIR of PEFT's files: compared as they are, nothing is trained
    config.task = ConfigDict({"name": "docstrings"})
    config.task.options = ConfigDict({"train_per_topic": 120, "test_per_topic": 40})
    config.pooling = "mean"
    config.length = 24  # tokens of an example
    config.targets = ("q_proj", "v_proj")
    config.ranks = (8, 64)
    config.alpha = 16.0  # of every rank: the scale is alpha/rank
    config.seeds = (0, 1, 2, 3, 4)
    config.steps = 180
    config.batch_size = 8
    config.optimizer = ConfigDict({"name": "adamw", "learning_rate": 2e-3, "schedule": "linear"})
    config.optimizer.update(warmup=0.1, weight_decay=0.01, clip=1.0)
    config.optimizer.groups = ConfigDict({"head": {"multiplier": 10.0}})
    config.together = 10  # adapters that are trained together, at most
    config.evaluation_batch_size = 96
    config.sides = ("a", "in")  # what is compared: A, B, or ΔW on the side of in- or outputs
    config.energy = 0.9  # the share that the effective rank by energy holds
    config.intruders = ConfigDict({"top": 10, "threshold": 0.5})
    config.lock()
    return config


class Run(NamedTuple):
    """An adapter to compare; those trained here have a rank, a seed, a score and their start."""

    adapter: Adapter
    rank: int = 0
    seed: int = 0
    score: float | None = None
    start: Adapter | None = None


def main(config: ConfigDict, workdir: Path | None) -> None:
    """Compares adapters, or prints the plan if there is no workdir."""
    started, console = time.perf_counter(), Console(highlight=False, soft_wrap=True)
    check(config)
    base = hub.load_model(
        config.model.path, dtype=config.model.dtype, sha256=config.model.sha256 or None
    )
    folders = directories(config)
    if folders:
        runs = load_runs(folders, base)
        shared_paths([run.adapter for run in runs])
        if workdir is None:
            for run in runs:
                console.print(f"{run.adapter.name}\n{run.adapter.lifted}", markup=False)
            return
        training.open_workdir(workdir, config.to_dict())
    else:
        wanted = every_adapter(config, base)
        if workdir is None:
            print_plan(console, config, base, wanted)
            return
        training.open_workdir(workdir, config.to_dict())
        runs = train_runs(config, base, wanted, workdir, console)

    # ---- What they share, and how each stands to W
    console.print("comparing")
    grids = compare_pairs(make_pairs(runs), listed(config.sides), jax.random.key(0))
    measures = [
        measure_adapter(run.adapter, base.params, config.energy, config.intruders.to_dict())
        for run in runs
    ]
    write_report(workdir, config, runs, grids, measures)
    console.print(f"{workdir / 'report.html'} | {time.perf_counter() - started:.0f} s")


def check(config: ConfigDict) -> None:
    """Refuses what could only fail after training."""
    if not listed(config.sides):
        raise ValueError(f"sides = (): name one or more of {', '.join(SIDES)}")
    for side in listed(config.sides):
        known(side, SIDES, "side")
    if not 0 < config.energy <= 1:
        raise ValueError(f"energy = {config.energy}: a share in (0, 1] is needed")
    if config.intruders.top < 1 or not 0 <= config.intruders.threshold <= 1:
        raise ValueError(
            f"intruders.top = {config.intruders.top} and intruders.threshold = "
            f"{config.intruders.threshold}: at least 1, and in [0, 1], are needed"
        )
    if directories(config):
        return
    check_seeds(config.seeds, least=2)  # one seed has no other to be compared with
    check_ranks(config.ranks)
    check_counts(config, "steps", "together")


def load_runs(folders: list[Path], base: hub.Pretrained) -> list[Run]:
    """Lifts the model as each adapter asks for, and decomposes it."""
    names = [folder.name for folder in folders]
    if len(set(folders)) < len(folders):
        raise ValueError(f"adapters = {[str(f) for f in folders]}: some are the same directory")
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    inputs = (ids,) if hasattr(base.config, "eos_ids") else (ids, ids)  # a decoder, or an encoder
    runs = []
    for name, folder in zip(names, folders, strict=True):
        lifted, factors = hub.lift_peft(folder, base.apply, base.params, *inputs)
        runs.append(Run(describe_adapter(name, lifted, base.params, factors)))
    return runs


def every_adapter(config: ConfigDict, base: hub.Pretrained) -> list[Wanted]:
    """Each rank with each seed."""
    sets = load_sets(config.task.name, config.task.options.to_dict(), base, config.length)
    wanted = []
    for rank in sorted(config.ranks):
        method = lora.LoRA(rank=rank, alpha=config.alpha)
        targets = listed(config.targets)
        inputs = inputs_of(config)
        lifted = lora.lift(base.apply, base.params, *inputs, method=method, targets=targets)
        for seed in config.seeds:
            name = f"r{rank}-seed{seed}"
            wanted.append(Wanted(name, sets, lifted, method, seed, {"name": name}))
    return wanted


def train_runs(
    config: ConfigDict,
    base: hub.Pretrained,
    wanted: list[Wanted],
    workdir: Path,
    console: Console,
) -> list[Run]:
    """Trains the adapters that are not there yet; and where each of all started."""
    found = read_or_train(config, base, wanted, workdir, console)
    adapter_of = lambda one: lambda key: start_of(base, one)(key)["adapter"]
    starts = {one.lifted: jax.jit(adapter_of(one)) for one in wanted}  # one of each rank
    runs = []
    for one, variables in zip(wanted, found, strict=True):
        rank = one.lifted.sites[0].method.rank  # type: ignore[attr-defined]
        start = starts[one.lifted](jax.random.key(one.seed))
        describe = lambda name, factors, lifted=one.lifted: describe_adapter(
            name, lifted, base.params, factors
        )
        runs.append(
            Run(
                describe(one.name, variables["adapter"]),
                rank,
                one.seed,
                last_score(workdir / "metrics.jsonl", one.name, one.sets.task.metric),
                describe(f"{one.name} at its start", start),
            )
        )
    return runs


def last_score(log: Path, name: str, metric: str) -> float:
    """The score of a finished run; of one that was killed and made again, the last."""
    found = [row for row in read_rows(log) if row["name"] == name and f"eval/{metric}" in row]
    return float(found[-1][f"eval/{metric}"])


def make_pairs(runs: list[Run]) -> list[Pair]:
    """Which adapters are compared, and what that shows."""
    pairs = [Pair("against random", run.adapter, None, group=str(run.rank or "")) for run in runs]
    if not runs[0].rank:
        return [
            *(Pair("one another", a.adapter, b.adapter) for a, b in combinations(runs, 2)),
            *pairs,
        ]
    ranks = sorted({run.rank for run in runs})
    by = {(run.rank, run.seed): run for run in runs}
    seeds = sorted({run.seed for run in runs})
    for small, large in combinations(ranks, 2):
        pairs += [
            Pair("ranks", by[small, s].adapter, by[large, s].adapter, group=f"{small} and {large}")
            for s in seeds
        ]
    # Each seed with the next, around the ring: independent starts, and each adapter twice.
    ring = list(zip(seeds, [*seeds[1:], seeds[0]], strict=True))
    ring = ring[:1] if len(seeds) == 2 else ring  # two seeds are one pair
    for rank in ranks:
        pairs += [
            Pair("seeds", by[rank, a].adapter, by[rank, b].adapter, group=str(rank))
            for a, b in ring
        ]
        pairs += [
            # Of A alone: B starts at zero, so ΔW has no directions yet.
            Pair("own start", by[rank, s].adapter, by[rank, s].start, str(rank), sides=("a",))
            for s in seeds
        ]
    return pairs


def print_plan(
    console: Console, config: ConfigDict, base: hub.Pretrained, wanted: list[Wanted]
) -> None:
    """Says what would be trained and compared."""
    sets = wanted[0].sets
    console.print(plan.describe_task(sets.task, sets.train, base.tokenizer), markup=False)
    console.print(
        f"{len(config.ranks)} ranks x {len(config.seeds)} seeds x {config.steps} steps, "
        f"{config.together} at a time"
    )
    for one in wanted[:: len(config.seeds)]:
        console.print(f"\n{one.method}, one alone: {describe_alone(config, base, one)}")
        console.print(str(one.lifted), markup=False)


if __name__ == "__main__":
    launch(main)
