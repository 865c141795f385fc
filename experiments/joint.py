"""Trains runs together, in one compiled program over one frozen base, and scores them.

Members differ in targets, rank, learning rate, seed and examples. Whole models are trained side by
side too: nothing of the base is then shared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from experiments.subject import Subject
from lora_jax import training
from lora_jax.data import Examples, evaluation_batches, training_batches

LORA, FULL = "lora", "full"


class Choice(NamedTuple):
    """What is trained, and on how much; the learning rate and the seed are left open.

    Attributes:
      name: in tables.
      targets: of LoRA; none for full fine-tuning.
      rank: of every adapter.
      alpha: of every adapter.
      batch_size: examples of a step.
      steps: how many.
      examples: to train on, drawn by the seed; 0: all.
    """

    name: str
    targets: tuple[str, ...]
    rank: int
    alpha: float
    batch_size: int
    steps: int
    examples: int = 0

    @property
    def kind(self) -> str:
        """What trains."""
        return LORA if self.targets else FULL

    @property
    def alike(self) -> tuple[str, int, int]:
        """What runs must have in common to share a program."""
        return self.kind, self.batch_size, self.steps


class Run(NamedTuple):
    """A choice with a learning rate and a seed."""

    choice: Choice
    rate: float
    seed: int

    @property
    def key(self) -> tuple[str, float, int]:
        """What tells it from other runs of its study."""
        return self.choice.name, self.rate, self.seed


class Outcome(NamedTuple):
    """What became of a run; the scores of one that diverged are nan.

    Attributes:
      losses: of training, one a step.
      validation: the loss by which rates are chosen.
      test: the score that counts.
      test_loss: the loss on the test set.
      left: what is left of the base's own domain, where that was asked for.
    """

    losses: tuple[float, ...]
    validation: float
    test: float
    test_loss: float
    left: Mapping[str, float]


def adapt(subject: Subject, choice: Choice) -> lora.Lifted | None:
    """The base with the adapter of a choice.

    Raises:
      ValueError: a target that the base lacks, or a rank that is larger than a weight.
    """
    if choice.kind == FULL:
        return None
    base, method = subject.base, lora.LoRA(choice.rank, choice.alpha)
    lifted = lora.lift(
        base.apply, base.params, *subject.inputs, targets=choice.targets, method=method
    )
    jax.eval_shape(lifted.init, jax.random.key(0), base.params)  # refuses too high a rank
    return lifted


class Program(NamedTuple):
    """A compiled sweep, and the functions that score its members."""

    sweep: training.Sweep
    predict: Callable[..., jax.Array]
    remember: Callable[..., jax.Array] | None


class Together:
    """Trains runs of a few choices together; where as many are alike, by the same program.

    Alike are runs of one kind, one batch size and one number of steps. Their program has room for
    every choice of this kind, so that it is compiled once, whichever of them come together.

    Args:
      config: has the fields of `study.defaults`.
      subject: the base and its task.
      choices: of all runs that are to come.
    """

    def __init__(self, config: ConfigDict, subject: Subject, choices: Sequence[Choice]) -> None:
        self._config = config
        self._subject = subject
        self._choices = choices
        self._programs: dict[Any, Program] = {}

    def train(self, runs: Sequence[Run], console: Console) -> list[Outcome]:
        """Trains runs that are alike, at least one, and scores them; progress goes to `console`."""
        config, subject, first = self._config, self._subject, runs[0].choice
        members = [as_member(config, run) for run in runs]
        program = self._program(first, members)

        def batches(member: training.Member) -> Any:
            examples = draw(subject.train, int(member.task), member.seed)
            return training_batches(examples, first.batch_size, seed=member.seed)

        names = [member.name for member in members]
        result = training.train_sweep(
            program.sweep,
            batches,
            members=members,
            evaluate=lambda variables: dict(
                zip(names, score_all(config, subject, program, variables), strict=True)
            ),
            console=console,
        )
        return [
            make_outcome(losses, result.runs[name].rows[-1], subject)
            for name, losses in zip(names, result.losses, strict=True)
        ]

    def _program(self, first: Choice, members: Sequence[training.Member]) -> Program:
        key = first.alike, len(members)
        if key not in self._programs:
            self._programs[key] = self._make(first, members)
        return self._programs[key]

    def _make(self, first: Choice, members: Sequence[training.Member]) -> Program:
        subject, learns = self._subject, self._subject.objective
        alike = [choice for choice in self._choices if choice.alike == first.alike]
        room = {
            target: max(choice.rank for choice in alike if target in choice.targets)
            for target in dict.fromkeys(name for choice in alike for name in choice.targets)
        }
        sweep = training.make_sweep(
            subject.base.apply,
            subject.base.params,
            *subject.inputs,
            members=members,
            steps=first.steps,
            init=lambda _, lifted, key: learns.init(lifted, key),
            loss=lambda lifted: partial(learns.loss, learns.outputs(lifted)),
            rules=learns.rules[first.kind],
            ranks=room or None,
        )
        predict = sweep.outputs(partial(learns.predict, learns.outputs(sweep.lifted)))
        remember = None
        if subject.own is not None:
            remember = sweep.outputs(subject.own.predict(sweep.lifted))
        return Program(sweep, predict, remember)


def as_member(config: ConfigDict, run: Run) -> training.Member:
    """A run as a member of a sweep; its task is how many examples it has."""
    choice, optimizer = run.choice, {**config.optimizer.to_dict(), "learning_rate": run.rate}
    return training.Member(
        name=f"{choice.name}, rate {run.rate:g}, seed {run.seed}",
        targets=choice.targets,
        method=lora.LoRA(choice.rank, choice.alpha) if choice.targets else lora.LoRA(),
        optimizer=optimizer,
        seed=run.seed,
        task=str(choice.examples),
    )


def draw(examples: Examples, count: int, seed: int) -> Examples:
    """So many examples, another choice for each seed; 0: all."""
    if not count:
        return examples
    rows = np.random.default_rng(seed).permutation(len(next(iter(examples.values()))))[:count]
    return {name: values[rows] for name, values in examples.items()}


def score_all(
    config: ConfigDict, subject: Subject, program: Program, variables: Any
) -> list[dict[str, float]]:
    """The scores of every member: "validation", "test", "test_loss", and what is left."""

    def run(found: Callable[..., jax.Array], examples: Examples) -> np.ndarray:
        rows = config.evaluation_batch_size
        return np.concatenate(
            [
                np.asarray(found(variables, batch))[:, :real]
                for batch, real in evaluation_batches(examples, rows)
            ],
            axis=1,
        )

    grade, scores = subject.objective.grade, []
    chosen_by, scored = (run(program.predict, part) for part in (subject.validation, subject.test))
    for validation, test in zip(chosen_by, scored, strict=True):
        own, loss = grade(test, subject.test), grade(validation, subject.validation)["loss"]
        scores.append({"validation": loss, "test": own[subject.metric], "test_loss": own["loss"]})
    if program.remember is not None and subject.own is not None:
        remembered = run(program.remember, subject.own.examples)
        for score, found in zip(scores, remembered, strict=True):
            score.update(subject.own.grade(found, subject.own.examples))
    return scores


def make_outcome(losses: np.ndarray, scores: Mapping[str, Any], subject: Subject) -> Outcome:
    """Gathers what became of a run, from the last row of its metrics."""
    found = lambda name: scores.get(f"eval/{name}", np.nan)
    left = subject.own.scores if subject.own is not None else ()
    return Outcome(
        tuple(losses.tolist()),
        *(found("validation"), found("test"), found("test_loss")),
        {name: found(name) for name in left},
    )
