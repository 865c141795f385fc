"""The runs of the target-module study: trained, scored, and kept."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from experiments.subject import Subject
from lora_jax import training
from lora_jax.data import training_batches
from lora_jax.evaluation import answer, find_metric
from lora_jax.training.metrics import Row, read_rows
from lora_jax.training.workdir import write_text

BASE, HEAD, FULL = REFERENCES = ("base as it is", "head only", "full fine-tuning")
"""What sets are compared with: where there is no head, the base without any training."""


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

    def __init__(self, config: ConfigDict, subject: Subject) -> None:
        super().__init__()
        self._config = config
        self._subject = subject

    def __missing__(self, key: tuple[str, int]) -> lora.Lifted:
        (name, rank), base = key, self._subject.base
        method = lora.make_method(**{**self._config.method, "rank": rank})
        self[key] = lora.lift(
            base.apply, base.params, *self._subject.inputs, method=method, targets=name.split("+")
        )
        return self[key]

    def parameters(self, name: str, rank: int) -> int:
        """What a set's adapter, or a reference, trains; a head beside the base is not counted."""
        if name == FULL:
            return lora.count_parameters(self._subject.base.params)
        if name in REFERENCES:
            return 0
        return sum(site.num_parameters for site in self[name, rank].sites)


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

    @classmethod
    @contextlib.contextmanager
    def explained(cls, path: Path, console: Console) -> Iterator[Self]:
        """Opens the log, and says where finished runs are, if the study is stopped."""
        try:
            yield cls(path, console)
        except (SystemExit, KeyboardInterrupt):
            said = f"Finished runs are in {path}: the same command goes on from there."
            console.print(said, markup=False)
            raise

    def add(self, run: Run, losses: Sequence[float | None], evaluation: dict[str, float]) -> None:
        """Adds a finished run."""
        steps = enumerate(losses, start=1)
        rows = [*({"step": step, "loss": _number(loss)} for step, loss in steps)]
        rows.append({name: _number(value) for name, value in evaluation.items()})
        self.runs[run] = rows
        with self._path.open("a") as file:
            file.write(_lines(run, rows))
        self.say(f"  {run}: {', '.join(f'{name} {x:.4f}' for name, x in evaluation.items())}")

    def say(self, text: str) -> None:
        """Prints a line."""
        self._console.print(text, markup=False)


class Trainer:
    """Trains runs, `config.members` adapters at a time in one program, and scores them."""

    def __init__(self, config: ConfigDict, subject: Subject, lifts: Lifts, log: Log) -> None:
        self._config = config
        self._subject = subject
        self._lifts = lifts
        self._log = log
        self._plain = subject.objective.predictor(None)
        self._sweeps: dict[tuple[tuple[str, int], ...], training.Sweep] = {}

    def train(self, wanted: Sequence[Run]) -> None:
        """Trains and scores the runs that an earlier start has not finished."""
        wanted = list(dict.fromkeys(wanted))
        missing = [run for run in wanted if run not in self._log.runs]
        if missing and len(missing) < len(wanted):
            done = len(wanted) - len(missing)
            self._log.say(f"{done} of {len(wanted)} runs done before")
        adapters = [run for run in missing if run.name not in REFERENCES]
        # Runs of one seed see the same batches: one copy of them, and a program of one shape.
        for _, of_seed in itertools.groupby(sorted(adapters, key=_seed), _seed):
            runs, size = list(of_seed), self._config.members
            for start in range(0, len(runs), size):
                self._train_together(self._sweep(adapters), runs[start : start + size])
        others = [run for run in missing if run.name in REFERENCES]
        for _, alike in itertools.groupby(others, key=lambda run: run._replace(seed=0)):
            self._train_references(list(alike))

    def _sweep(self, runs: Sequence[Run]) -> training.Sweep:
        """The program of runs of adapters; those that need no more room share it."""
        room: dict[str, int] = {}
        for run in runs:
            for site in self._lifts[run.name, run.rank].sites:
                room[site.path] = max(run.rank, room.get(site.path, 0))
        key = tuple(sorted(room.items()))
        if key not in self._sweeps:
            base, learns = self._subject.base, self._subject.objective
            self._sweeps[key] = training.make_sweep(
                base.apply,
                base.params,
                *self._subject.inputs,
                members=members_of(self._config, runs),
                steps=self._config.steps,
                init=lambda _, lifted, key: learns.init(lifted, key),
                loss=lambda lifted: partial(learns.loss, learns.outputs(lifted)),
                rules=learns.rules["lora"],
                ranks=room,
            )
        return self._sweeps[key]

    def _batches(self, seed: int) -> Any:
        return training_batches(self._subject.train, self._config.batch_size, seed=seed)

    def _train_together(self, sweep: training.Sweep, runs: Sequence[Run]) -> None:
        """Trains several adapters of one seed, and scores each merged into the base."""
        config, started = self._config, time.perf_counter()
        result = training.train_sweep(
            sweep,
            lambda member: self._batches(member.seed),
            members=members_of(config, runs),
            console=Console(quiet=True),
        )
        seconds = time.perf_counter() - started
        self._log.say(
            f"{len(runs)} adapters, seed {runs[0].seed}: {config.steps} steps in {seconds:.1f} s"
        )
        for run in runs:
            found = result.runs[str(run)]
            assert found.lifted is not None  # every member has targets
            values = self._evaluate(run, merge(found.lifted, found.variables))
            is_first = run.part == "test" and run.seed == config.seeds[0]
            if is_first and run.rank == config.method.rank:
                beside = self._score(found.variables, found.lifted)
                values[f"unmerged/{self._subject.metric}"] = beside
            losses = [row["loss"] for row in found.rows]
            if found.diverged:
                self._log.say(f"{run} diverged at step {found.diverged}")
            self._log.add(run, [*losses, *[None] * (config.steps - len(losses))], values)

    def _train_references(self, runs: Sequence[Run]) -> None:
        """Trains one reference with several seeds, one after another."""
        name, rate, seed = runs[0].name, runs[0].rate, runs[0].seed
        learns, config = self._subject.objective, self._config
        if name == BASE:  # which is the same for every seed
            values = self._evaluate(runs[0], learns.init(None, jax.random.key(seed)))
            for run in runs:
                self._log.add(run, [], values)
            return
        kind = {HEAD: "head", FULL: "full"}[name]
        shapes = jax.eval_shape(partial(learns.init, None), jax.random.key(seed))
        labels = training.label(shapes, learns.rules[kind])
        settings = {**config.optimizers[kind].to_dict(), "learning_rate": rate}
        optimizer = training.make_optimizer(settings, labels, config.steps)
        step = training.make_step(partial(learns.loss, learns.outputs(None)), optimizer)
        for run in runs:
            key, quiet = jax.random.key(run.seed), Console(quiet=True)
            state, frozen = training.init_state(learns.init(None, key), labels, optimizer, key)
            batches = self._batches(run.seed)
            result = training.train(step, state, frozen, batches, steps=config.steps, console=quiet)
            values = self._evaluate(run, training.join(result.state.trainable, frozen))
            self._log.add(run, [row["loss"] for row in result.rows], values)

    def _evaluate(self, run: Run, variables: Any) -> dict[str, float]:
        """The validation loss, or the score on the test set, of variables without an adapter."""
        if run.part == "test":
            return {f"eval/{self._subject.metric}": self._score(variables)}
        learns, rows = self._subject.objective, self._config.evaluation_batch_size
        found = learns.score(self._plain, self._subject.validation, rows, variables)
        return {"validation/loss": found["loss"]}

    def _score(self, variables: Any, lifted: lora.Lifted | None = None) -> float:
        """The metric on the test set: of plain variables, or with an adapter beside the params."""
        subject, rows = self._subject, self._config.evaluation_batch_size
        if not subject.is_generated:
            predictor = subject.objective.predictor(lifted) if lifted else self._plain
            return subject.objective.score(predictor, subject.test, rows, variables)[subject.metric]
        assert subject.encoder is not None
        model = subject.base._replace(params=variables["params"])
        if lifted is not None:
            model = model._replace(apply=beside(lifted), params=dict(variables))
        texts = answer(
            model,
            subject.encoder,
            subject.asked,
            max_new_tokens=self._config.new_tokens,
            batch_size=rows,
        )
        return find_metric(subject.metric)(texts, [list(one.accepted) for one in subject.asked])


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


def merge(lifted: lora.Lifted, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of the base that compute the same without an adapter."""
    others = {name: value for name, value in variables.items() if name != "adapter"}
    return {**others, "params": lifted.merge(variables["params"], variables["adapter"])}


def beside(lifted: lora.Lifted) -> Callable[..., Any]:
    """A decoder with its adapter, as a function of both."""

    def apply(variables: Mapping[str, Any], *args: Any, **named: Any) -> Any:
        return lifted(variables["params"], variables["adapter"], *args, **named)

    return apply


def _seed(run: Run) -> int:
    return run.seed


def _lines(run: Run, rows: Sequence[Row]) -> str:
    return "".join(json.dumps({**run._asdict(), **row}) + "\n" for row in rows)


def _number(value: float | None) -> float | None:
    """JSON has no NaN: a run that diverged has no numbers."""
    return float(value) if value is not None and math.isfinite(value) else None
