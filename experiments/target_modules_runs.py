"""The runs of the target-module study: trained, evaluated, and kept."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
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


def train_missing(
    config: ConfigDict, bench: Bench, lifts: Lifts, log: Log, wanted: Sequence[Run]
) -> None:
    """Trains and evaluates the runs that an earlier start has not finished."""
    missing = [run for run in dict.fromkeys(wanted) if run not in log.runs]
    if missing and len(missing) < len(set(wanted)):
        log.say(f"{len(set(wanted)) - len(missing)} of {len(set(wanted))} runs done before")
    for choice, alike in itertools.groupby(missing, key=lambda run: run._replace(seed=0)):
        lifted = None if choice.name in REFERENCES else lifts[choice.name, choice.rank]
        for run, losses, variables in train(config, bench, lifted, list(alike)):
            values = evaluate(bench, run, merge(lifted, variables) if lifted else variables)
            is_first = run.part == "test" and run.seed == config.seeds[0]
            if lifted and is_first and run.rank == config.method.rank:
                values[f"unmerged/{bench.metric}"] = bench.score(variables, lifted)
            log.add(run, losses, values)
            log.say(f"{run}: {describe(values)}")


def train(
    config: ConfigDict, bench: Bench, lifted: lora.Lifted | None, runs: Sequence[Run]
) -> Iterator[tuple[Run, list[float], Any]]:
    """Trains runs that differ in their seed alone, by one compiled step.

    Yields:
      Each run, its losses, and its variables; the base as it is has no losses.
    """
    name, _, rate, seed, _ = runs[0]
    if name == BASE:
        yield from ((run, [], bench.init(None, jax.random.key(run.seed))) for run in runs)
        return
    kind = {HEAD: "head", FULL: "full"}.get(name, "lora")
    shapes = jax.eval_shape(partial(bench.init, lifted), jax.random.key(seed))
    labels = training.label(shapes, bench.rules[kind], lifted.frozen if lifted else ())
    settings = {**config.optimizers[kind].to_dict(), "learning_rate": rate}
    optimizer = training.make_optimizer(settings, labels, config.steps)
    step = training.make_step(partial(bench.loss, bench.outputs(lifted)), optimizer)
    for run in runs:
        key = jax.random.key(run.seed)
        state, frozen = training.init_state(bench.init(lifted, key), labels, optimizer, key)
        batches = training_batches(bench.train, config.batch_size, seed=run.seed)
        quiet = Console(quiet=True)
        result = training.train(step, state, frozen, batches, steps=config.steps, console=quiet)
        losses = [row["loss"] for row in result.rows]
        yield run, losses, training.join(result.state.trainable, frozen)


def evaluate(bench: Bench, run: Run, variables: Any) -> dict[str, float]:
    """The validation loss, or the score on the test set, of variables without an adapter."""
    if run.part == "validation":
        return {"validation/loss": bench.validate(variables)}
    return {f"eval/{bench.metric}": bench.score(variables)}


def describe(values: Mapping[str, float]) -> str:
    """Writes what an evaluation found."""
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


def _lines(run: Run, rows: Sequence[Row]) -> str:
    return "".join(json.dumps({**run._asdict(), **row}) + "\n" for row in rows)


def _number(value: float | None) -> float | None:
    """JSON has no NaN: a run that diverged has no numbers."""
    return float(value) if value is not None and math.isfinite(value) else None
