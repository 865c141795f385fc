"""The runs of the target-module study: trained, evaluated, and kept."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from experiments.target_modules_bench import Bench, merge
from experiments.target_modules_outcome import BASE, FULL, HEAD, REFERENCES
from lora_jax import training
from lora_jax.data import training_batches
from lora_jax.training.metrics import Row, read_rows
from lora_jax.training.workdir import write_text


class Run(NamedTuple):
    """One training run, and the part that it is evaluated on.

    Attributes:
      name: a set of targets, or a reference.
      rank: of its adapter; 0 of a reference.
      rate: learning rate.
      seed: of the new weights and of the order of the examples.
      part: "validation", to choose a rate, or "test".
    """

    name: str
    rank: int
    rate: float
    seed: int
    part: str

    def __str__(self) -> str:
        rank = f" r{self.rank}" if self.rank else ""
        return f"{self.name}{rank}, rate {self.rate:g}, seed {self.seed}, for {self.part}"


class Lifts(dict[tuple[str, int], lora.Lifted]):
    """The base with an adapter on a set of targets, by name and rank, lifted when first asked."""

    def __init__(self, config: ConfigDict, bench: Bench) -> None:
        super().__init__()
        self._config = config
        self._bench = bench

    def __missing__(self, key: tuple[str, int]) -> lora.Lifted:
        name, rank = key
        base, inputs = self._bench.base, self._bench.inputs
        method = lora.make_method(**{**self._config.method, "rank": rank})
        targets = name.split("+")
        self[key] = lora.lift(base.apply, base.params, *inputs, method=method, targets=targets)
        return self[key]

    def parameters(self, name: str, rank: int) -> int:
        """What a set's adapter, or a reference, trains; a head beside the base is not counted."""
        if name == FULL:
            return lora.count_parameters(self._bench.base.params)
        return 0 if name in REFERENCES else parameters_of(self[name, rank])


def parameters_of(lifted: lora.Lifted) -> int:
    """How many parameters an adapter trains."""
    return sum(site.num_parameters for site in lifted.sites)


class Log:
    """metrics.jsonl: the rows of each finished run; what a killed one left of itself is dropped."""

    def __init__(self, path: Path, console: Console) -> None:
        self._path = path
        self._console = console
        found: dict[Run, list[Row]] = defaultdict(list)
        for row in read_rows(path):
            found[Run(**{field: row.pop(field) for field in Run._fields})].append(row)
        # The evaluation, which has no loss, is the last row of a run.
        self.runs = {run: rows for run, rows in found.items() if "loss" not in rows[-1]}
        write_text(path, "".join(_lines(run, rows) for run, rows in self.runs.items()))

    def add(self, run: Run, losses: Sequence[float | None], evaluation: dict[str, float]) -> None:
        """Adds a finished run."""
        steps = enumerate(losses, start=1)
        rows = [*({"step": step, "loss": _number(loss)} for step, loss in steps)]
        rows.append({name: _number(value) for name, value in evaluation.items()})
        self.runs[run] = rows
        with self._path.open("a") as file:
            file.write(_lines(run, rows))

    def say(self, text: str) -> None:
        """Prints a line."""
        self._console.print(text, markup=False)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Says where finished runs are, if the study is stopped."""
        try:
            yield
        except (SystemExit, KeyboardInterrupt):
            self._console.print(
                f"Finished runs are in {self._path}: the same command goes on from there."
            )
            raise


class Sweeps(dict[tuple[tuple[str, int], ...], training.Sweep]):
    """Programs that train `config.members` adapters at a time, by the ranks they have room for."""

    def __init__(self, config: ConfigDict, bench: Bench, lifts: Lifts) -> None:
        super().__init__()
        self._config = config
        self._bench = bench
        self._lifts = lifts

    def of(self, runs: Sequence[Run]) -> training.Sweep:
        """The program of runs of adapters; those that need no more room share it."""
        room: dict[str, int] = {}
        for run in runs:
            for site in self._lifts[run.name, run.rank].sites:
                room[site.path] = max(run.rank, room.get(site.path, 0))
        key = tuple(sorted(room.items()))
        if key not in self:
            self[key] = self._make(runs, room)
        return self[key]

    def _make(self, runs: Sequence[Run], room: Mapping[str, int]) -> training.Sweep:
        bench, config = self._bench, self._config
        return training.make_sweep(
            bench.base.apply,
            bench.base.params,
            *bench.inputs,
            members=members_of(config, runs),
            steps=config.steps,
            init=lambda _, lifted, key: bench.init(lifted, key),
            loss=lambda lifted: partial(bench.loss, bench.outputs(lifted)),
            rules=bench.rules["lora"],
            ranks=room,
        )


def train_missing(
    config: ConfigDict, bench: Bench, sweeps: Sweeps, log: Log, wanted: Sequence[Run]
) -> None:
    """Trains and evaluates the runs that an earlier start has not finished."""
    missing = [run for run in dict.fromkeys(wanted) if run not in log.runs]
    if missing and len(missing) < len(set(wanted)):
        log.say(f"{len(set(wanted)) - len(missing)} of {len(set(wanted))} runs done before")
    adapters = [run for run in missing if run.name not in REFERENCES]
    # Runs of one seed see the same batches: one copy of them, and a program of one shape.
    for _, of_seed in itertools.groupby(sorted(adapters, key=lambda run: run.seed), _seed):
        runs = list(of_seed)
        for start in range(0, len(runs), config.members):
            few = runs[start : start + config.members]
            train_together(config, bench, sweeps.of(adapters), log, few)
    others = [run for run in missing if run.name in REFERENCES]
    for _, alike in itertools.groupby(others, key=lambda run: run._replace(seed=0)):
        train_reference(config, bench, log, list(alike))


def train_together(
    config: ConfigDict, bench: Bench, sweep: training.Sweep, log: Log, runs: Sequence[Run]
) -> None:
    """Trains several adapters of one seed in one program, and scores each merged into the base."""
    started = time.perf_counter()
    result = training.train_sweep(
        sweep,
        lambda member: training_batches(bench.train, config.batch_size, seed=member.seed),
        members=members_of(config, runs),
        console=Console(quiet=True),
    )
    seconds = time.perf_counter() - started
    log.say(f"{len(runs)} adapters, seed {runs[0].seed}: {config.steps} steps in {seconds:.1f} s")
    for run in runs:
        found = result.runs[str(run)]
        assert found.lifted is not None  # every member has targets
        values = evaluate(bench, run, merge(found.lifted, found.variables))
        is_first = run.part == "test" and run.seed == config.seeds[0]
        if is_first and run.rank == config.method.rank:
            values[f"unmerged/{bench.metric}"] = bench.score(found.variables, found.lifted)
        losses = [row["loss"] for row in found.rows]
        missing = [None] * (config.steps - len(losses))  # of one that diverged
        log.add(run, [*losses, *missing], values)
        said = f", diverged at step {found.diverged}" if found.diverged else ""
        log.say(f"  {run}: {describe(values)}{said}")


def members_of(config: ConfigDict, runs: Sequence[Run]) -> list[training.Member]:
    """As many members as a program takes; where runs are fewer, the last is there several times."""
    members = [
        training.Member(
            name=str(run),
            targets=tuple(run.name.split("+")),
            method=lora.make_method(**{**config.method, "rank": run.rank}),
            optimizer={**config.optimizers.lora.to_dict(), "learning_rate": run.rate},
            seed=run.seed,
            outputs=1,
        )
        for run in runs[: config.members]
    ]
    spare = range(config.members - len(members))
    copies = [dataclasses.replace(members[-1], name=f"spare {number}") for number in spare]
    return [*members, *copies]


def train_reference(config: ConfigDict, bench: Bench, log: Log, runs: Sequence[Run]) -> None:
    """Trains a reference with each seed, by one compiled step; the base as it is needs none."""
    name, _, rate, seed, _ = runs[0]
    if name == BASE:
        values = evaluate(bench, runs[0], bench.init(None, jax.random.key(seed)))
        for run in runs:
            log.add(run, [], values)
        return
    kind = {HEAD: "head", FULL: "full"}[name]
    shapes = jax.eval_shape(partial(bench.init, None), jax.random.key(seed))
    labels = training.label(shapes, bench.rules[kind])
    settings = {**config.optimizers[kind].to_dict(), "learning_rate": rate}
    optimizer = training.make_optimizer(settings, labels, config.steps)
    step = training.make_step(partial(bench.loss, bench.outputs(None)), optimizer)
    for run in runs:
        key = jax.random.key(run.seed)
        state, frozen = training.init_state(bench.init(None, key), labels, optimizer, key)
        batches = training_batches(bench.train, config.batch_size, seed=run.seed)
        quiet = Console(quiet=True)
        result = training.train(step, state, frozen, batches, steps=config.steps, console=quiet)
        values = evaluate(bench, run, training.join(result.state.trainable, frozen))
        log.add(run, [row["loss"] for row in result.rows], values)
        log.say(f"  {run}: {describe(values)}")


def evaluate(bench: Bench, run: Run, variables: Any) -> dict[str, float]:
    """The validation loss, or the score on the test set, of variables without an adapter."""
    if run.part == "validation":
        return {"validation/loss": bench.validate(variables)}
    return {f"eval/{bench.metric}": bench.score(variables)}


def describe(values: Mapping[str, float]) -> str:
    """Writes what an evaluation found."""
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


def _seed(run: Run) -> int:
    return run.seed


def _lines(run: Run, rows: Sequence[Row]) -> str:
    return "".join(json.dumps({**run._asdict(), **row}) + "\n" for row in rows)


def _number(value: float | None) -> float | None:
    """JSON has no NaN: a run that diverged has no numbers."""
    return float(value) if value is not None and math.isfinite(value) else None
