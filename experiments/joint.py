"""Trains runs together: many adapters, or many whole models, in one compiled program.

Members differ in targets, ranks, alpha, learning rate, seed and examples. Adapters are padded with
zeros to one shape: a zero column of A and a zero row of B get no gradient and stay zero, so each
member's curve is that of its run alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import lora_jax as lora
from experiments.subject import Subject
from lora_jax import training
from lora_jax.data import Examples, evaluation_batches, training_batches

LORA, FULL = "lora", "full"


class Choice(NamedTuple):
    """What is trained, and on how much; the learning rate and the seed are left open.

    Attributes:
      name: in tables.
      ranks: targets with their ranks; none for full fine-tuning.
      alpha: of every adapter.
      batch_size: examples of a step.
      steps: how many.
      examples: to train on, drawn by the seed; 0: all.
    """

    name: str
    ranks: tuple[tuple[str, int], ...]
    alpha: float
    batch_size: int
    steps: int
    examples: int = 0

    @property
    def kind(self) -> str:
        """What trains."""
        return LORA if self.ranks else FULL


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
    """What became of a run; the numbers of one that diverged are nan.

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


class Joint(NamedTuple):
    """What the members share.

    Attributes:
      lifted: the base with every member's targets at the highest rank of any; None for whole
        models.
      alone: choice -> the base with its own adapter.
      scales: [members] of each site, α over the member's own rank, 0 where it has no adapter.
      rates: [members] learning rates.
    """

    lifted: lora.Lifted | None
    alone: Mapping[Choice, lora.Lifted | None]
    scales: Mapping[str, jax.Array]
    rates: jax.Array


def adapt(subject: Subject, choice: Choice) -> lora.Lifted | None:
    """The base with the adapter of a choice.

    Raises:
      ValueError: a target that the base lacks, or a rank that is larger than a weight.
    """
    if choice.kind == FULL:
        return None
    targets = {name: lora.LoRA(rank, choice.alpha) for name, rank in choice.ranks}
    lifted = lora.lift(subject.base.apply, subject.base.params, *subject.inputs, targets=targets)
    jax.eval_shape(lifted.init, jax.random.key(0), subject.base.params)  # refuses too high a rank
    return lifted


def train_together(config: ConfigDict, subject: Subject, runs: Sequence[Run]) -> list[Outcome]:
    """Trains runs of one kind, one batch size and one number of steps, and scores them.

    Args:
      config: has the fields of `study.defaults`.
      subject: the base and its task.
      runs: the members, at least one.

    Returns:
      What became of each.
    """
    joint = join(subject, runs)
    members = [start(subject, joint, run) for run in runs]
    labels = training.label(members[0], subject.rules[runs[0].choice.kind])
    optimizer_config = {**config.optimizer.to_dict(), "learning_rate": 1.0}
    head_rate = optimizer_config.pop("head_rate")
    optimizer = training.make_optimizer(optimizer_config, labels, runs[0].choice.steps)
    frozen = training.split(members[0], labels)[1]
    trainable = lora.stack([training.split(variables, labels)[0] for variables in members])
    del members

    state = jax.jit(jax.vmap(optimizer.init))(trainable)
    step = make_step(subject, joint, optimizer, head_rate)
    losses = []
    for batch in joint_batches(subject.train, runs):
        trainable, state, loss = step(trainable, state, frozen, joint.scales, joint.rates, batch)
        losses.append(np.asarray(loss))
    del state
    scores = score_all(config, subject, joint, trainable, frozen)
    return [
        make_outcome(curve, *own) for curve, own in zip(np.stack(losses, 1), scores, strict=True)
    ]


def make_outcome(
    losses: np.ndarray, validation: float, test: float, test_loss: float, left: Mapping[str, float]
) -> Outcome:
    """Gathers what became of a run; one whose loss was not finite in some step has no scores."""
    curve = tuple(losses.tolist())
    if np.isfinite(losses).all():
        return Outcome(curve, validation, test, test_loss, left)
    return Outcome(curve, np.nan, np.nan, np.nan, dict.fromkeys(left, np.nan))


def join(subject: Subject, runs: Sequence[Run]) -> Joint:
    """Finds what the members share."""
    choices = list(dict.fromkeys(run.choice for run in runs))
    rates = jnp.array([run.rate for run in runs])
    if choices[0].kind == FULL:
        return Joint(None, dict.fromkeys(choices), {}, rates)
    alone = {choice: adapt(subject, choice) for choice in choices}
    methods = {choice: methods_of(lifted) for choice, lifted in alone.items()}
    highest: dict[str, int] = {}
    for own in methods.values():
        for path, method in own.items():
            highest[path] = max(method.rank, highest.get(path, 0))
    # α = r: the members' own scales come with the factors.
    targets = {path: lora.LoRA(rank, rank) for path, rank in highest.items()}
    together = lora.lift(subject.base.apply, subject.base.params, *subject.inputs, targets=targets)
    scales = {path: np.zeros(len(runs), np.float32) for path in highest}
    for member, run in enumerate(runs):
        for path, method in methods[run.choice].items():
            scales[path][member] = method.scale
    return Joint(together, alone, jax.tree.map(jnp.asarray, scales), rates)


def methods_of(lifted: lora.Lifted | None) -> dict[str, Any]:
    """The method of each adapted weight, by path."""
    return {} if lifted is None else {site.path: site.method for site in lifted.sites}


def start(subject: Subject, joint: Joint, run: Run) -> dict[str, Any]:
    """The variables of a run before its first step, its factors padded with zeros."""
    own = joint.alone[run.choice]
    variables = subject.init(own, jax.random.key(run.seed))
    if joint.lifted is None:
        return variables
    empty = jax.eval_shape(joint.lifted.init, jax.random.key(0), subject.base.params)
    adapter = {
        path: {
            name: pad(variables["adapter"].get(path, {}).get(name), x) for name, x in site.items()
        }
        for path, site in empty.items()
    }
    return {**variables, "adapter": adapter}


def pad(array: jax.Array | None, like: jax.ShapeDtypeStruct) -> jax.Array:
    """An array with zeros at the end of each axis; zeros alone where there is none."""
    if array is None:
        return jnp.zeros(like.shape, like.dtype)
    return jnp.pad(
        array, [(0, long - own) for long, own in zip(like.shape, array.shape, strict=True)]
    )


def scaled(variables: Mapping[str, Any], scales: Mapping[str, jax.Array]) -> dict[str, Any]:
    """The variables of a member with α / r of its own in B."""
    if not scales:
        return dict(variables)
    adapter = {
        path: {**factors, "b": factors["b"] * scales[path]}
        for path, factors in variables["adapter"].items()
    }
    return {**variables, "adapter": adapter}


def make_step(
    subject: Subject, joint: Joint, optimizer: training.Optimizer, head_rate: float
) -> Callable[..., Any]:
    """Compiles one update of all members; what trains and the optimiser's state are donated."""
    outputs = subject.outputs(joint.lifted)

    def one(
        trainable: Any, state: Any, frozen: Any, scales: Any, rate: jax.Array, batch: Any
    ) -> tuple[Any, Any, jax.Array]:
        def loss_of(trainable: Any) -> jax.Array:
            variables = scaled(training.join(trainable, frozen), scales)
            return subject.loss(outputs, variables, batch, None)[0]

        loss, gradient = jax.value_and_grad(loss_of)(trainable)
        updates, state = optimizer.update(gradient, state, trainable, value=loss)
        updates = {
            part: jax.tree.map(lambda x, r=head_rate if part == "head" else rate: r * x, update)
            for part, update in updates.items()
        }
        return optax.apply_updates(trainable, updates), state, loss

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None, 0, 0, 0)), donate_argnums=(0, 1))


def joint_batches(examples: Examples, runs: Sequence[Run]) -> Iterator[dict[str, np.ndarray]]:
    """The batches of each step, [members, batch, ...]; each member has those of its own seed."""
    streams = []
    for run in runs:
        choice, own = run.choice, examples
        if choice.examples:
            count = len(next(iter(examples.values())))
            rows = np.random.default_rng(run.seed).permutation(count)[: choice.examples]
            own = {name: values[rows] for name, values in examples.items()}
        streams.append(training_batches(own, choice.batch_size, seed=run.seed))
    for _ in range(runs[0].choice.steps):
        found = [next(stream) for stream in streams]
        yield {name: np.stack([batch[name] for batch in found]) for name in found[0]}


def score_all(
    config: ConfigDict, subject: Subject, joint: Joint, trainable: Any, frozen: Any
) -> list[tuple[float, float, float, dict[str, float]]]:
    """Validation loss, test score and loss, and what is left of the base, of each member."""
    outputs = subject.outputs(joint.lifted)
    predict = on_members(partial(subject.predict, outputs), joint, frozen)
    rows = config.evaluation_batch_size

    def run(function: Callable[..., jax.Array], examples: Examples) -> np.ndarray:
        found = [
            np.asarray(function(trainable, batch))[:, :real]
            for batch, real in evaluation_batches(examples, rows)
        ]
        return np.concatenate(found, axis=1)

    validation, test = run(predict, subject.validation), run(predict, subject.test)
    left: list[dict[str, float]] = [{} for _ in test]
    if subject.own is not None:
        remember = on_members(subject.remember(joint.lifted), joint, frozen)
        left = [subject.remembered(found, subject.own) for found in run(remember, subject.own)]
    found = []
    for chosen_by, scored, rest in zip(validation, test, left, strict=True):
        scores = subject.score(scored, subject.test)
        loss = subject.score(chosen_by, subject.validation)["loss"]
        found.append((loss, scores[subject.metric], scores["loss"], rest))
    return found


def on_members(
    function: Callable[..., jax.Array], joint: Joint, frozen: Any
) -> Callable[..., jax.Array]:
    """Compiles a function of variables and a batch for all members and one batch."""

    def one(trainable: Any, frozen: Any, scales: Any, batch: Any) -> jax.Array:
        return function(scaled(training.join(trainable, frozen), scales), batch)

    compiled = jax.jit(jax.vmap(one, in_axes=(0, None, 0, None)))
    return lambda trainable, batch: compiled(trainable, frozen, joint.scales, batch)
