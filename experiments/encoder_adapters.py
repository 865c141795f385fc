"""Several adapters of one encoder: trained together in one program, and kept as PEFT's files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from experiments.settings import listed
from lora_jax import hub, training
from lora_jax.data import Examples, Task, encode, load_task, training_batches
from lora_jax.data.split import spread
from lora_jax.reports import plan
from lora_jax.training.classifier import init_variables, loss, make_outputs, score_members


class TaskSets(NamedTuple):
    """A task and its texts as tokens."""

    task: Task
    train: Examples
    test: Examples


class Wanted(NamedTuple):
    """An adapter to have: read from its folder, or trained.

    Attributes:
      name: of its folder, and in the log.
      sets: what it learns.
      lifted: the encoder with it.
      method: of the adapter.
      seed: of the new weights and of the order of the examples.
      logged: what stands in the log beside each row of its metrics.
    """

    name: str
    sets: TaskSets
    lifted: lora.Lifted
    method: lora.Method
    seed: int
    logged: Mapping[str, Any]


def directories(config: ConfigDict) -> list[Path]:
    """The directories of adapters."""
    # A text, for a flag with a tuple of absolute paths would have to be quoted twice.
    return [Path(name.strip()) for name in config.adapters.split(",") if name.strip()]


def load_sets(
    name: str, options: dict[str, Any], base: hub.Pretrained, length: int, most: int = 0
) -> TaskSets:
    """Reads a task and encodes its texts; of those to test on `most` (0: all), evenly spread."""
    task = load_task(name, options)
    task = task._replace(test=tuple(spread(task.test, most)))
    sides = (encode(side, base.tokenizer, length) for side in (task.train, task.test))
    return TaskSets(task, *sides)


def read_or_train(
    config: ConfigDict,
    base: hub.Pretrained,
    wanted: Sequence[Wanted],
    workdir: Path,
    console: Console,
) -> list[dict[str, Any]]:
    """The adapter and the head of each; those that an earlier start finished are not trained.

    Args:
      config: has `targets`, `pooling`, `steps`, `batch_size`, `length`, `optimizer`, `together` and
        `evaluation_batch_size`.
      base: the encoder.
      wanted: adapters of different names.
      workdir: where `adapters/` and metrics.jsonl are.
      console: where progress is shown.

    Returns:
      `{"adapter", "head"}` of each, in their order.

    Raises:
      ValueError: one diverged; those before it are kept.
    """
    folder = lambda one: workdir / "adapters" / one.name
    found = {}
    for one in wanted:
        shapes = jax.eval_shape(start_of(base, one), jax.random.key(one.seed))
        kept = training.read_adapter(folder(one), base, one.lifted, shapes["head"])
        if kept is not None:
            found[one.name] = kept
    missing = [one for one in wanted if one.name not in found]
    for start in range(0, len(missing), config.together):
        few = missing[start : start + config.together]
        console.print(", ".join(one.name for one in few))
        runs = train_together(config, base, few, console)
        for one in few:
            run = runs[one.name]
            if run.diverged:
                raise ValueError(
                    f"{one.name} diverged at step {run.diverged}: lower optimizer.learning_rate"
                )
            with (workdir / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({**one.logged, **row}) + "\n" for row in run.rows)
            found[one.name] = {name: run.variables[name] for name in ("adapter", "head")}
            training.save_adapter(folder(one), base, one.lifted, found[one.name])
    return [found[one.name] for one in wanted]


def train_together(
    config: ConfigDict, base: hub.Pretrained, wanted: Sequence[Wanted], console: Console
) -> dict[str, training.MemberRun]:
    """Trains adapters in one program, each on its own task, and scores them on its test set."""
    members = [
        training.Member(
            name=one.name,
            targets=tuple(listed(config.targets)),
            method=one.method,
            optimizer=config.optimizer.to_dict(),
            seed=one.seed,
            task=one.sets.task.name,
            outputs=one.sets.task.outputs,
        )
        for one in wanted
    ]
    sets = {one.sets.task.name: one.sets for one in wanted}
    sweep = training.make_sweep(
        base.apply,
        base.params,
        *inputs_of(config),
        members=members,
        steps=config.steps,
        init=lambda member, lifted, key: init_variables(base, lifted, member.outputs, key),
        loss=lambda lifted: partial(loss, make_outputs(base, lifted, config.pooling)),
    )
    result = training.train_sweep(
        sweep,
        lambda member: training_batches(
            sets[member.task].train, config.batch_size, seed=member.seed
        ),
        evaluate=partial(
            score_members,
            sweep.outputs(make_outputs(base, sweep.lifted, config.pooling)),
            members,
            {name: one.task for name, one in sets.items()},
            {name: one.test for name, one in sets.items()},
            config.evaluation_batch_size,
        ),
        console=console,
    )
    return result.runs


def inputs_of(config: ConfigDict) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The shapes of a batch, as an encoder takes it: ids, mask and types."""
    ids = jax.ShapeDtypeStruct((config.batch_size, config.length), "int32")
    return ids, ids, ids


def start_of(base: hub.Pretrained, one: Wanted) -> Callable[[jax.Array], dict[str, Any]]:
    """Makes the variables that an adapter starts with, from the key of its seed."""
    return partial(init_variables, base, one.lifted, one.sets.task.outputs)


def describe_alone(config: ConfigDict, base: hub.Pretrained, one: Wanted) -> str:
    """What a step of one adapter alone takes."""
    start, key = start_of(base, one), jax.random.key(one.seed)
    labels = training.label(jax.eval_shape(start, key), training.LORA, one.lifted.frozen)
    optimizer = training.make_optimizer(config.optimizer, labels, config.steps)
    begin = lambda key: training.init_state(start(key), labels, optimizer, key)
    step = training.make_step(
        partial(loss, make_outputs(base, one.lifted, config.pooling)), optimizer
    )
    batch = {name: values[: config.batch_size] for name, values in one.sets.train.items()}
    state, frozen = jax.eval_shape(begin, key)
    return plan.describe_cost(step, state, frozen, batch)
