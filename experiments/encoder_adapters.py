"""What experiments on several adapters of one encoder share: training one, keeping it in a file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

import lora_jax as lora
from lora_jax import hub, training
from lora_jax.data import Examples, Task, encode, load_task, training_batches
from lora_jax.data.split import spread
from lora_jax.training.classifier import init_variables, loss, make_outputs, score
from lora_jax.training.metrics import Row

HEAD = "head.npz"


class TaskSets(NamedTuple):
    """A task and its texts as tokens."""

    task: Task
    train: Examples
    test: Examples


def load_sets(
    name: str, options: dict[str, Any], base: hub.Pretrained, length: int, most: int = 0
) -> TaskSets:
    """Reads a task and encodes its texts; of those to test on `most` (0: all), evenly spread."""
    task = load_task(name, options)
    task = task._replace(test=tuple(spread(task.test, most)))
    sides = (encode(side, base.tokenizer, length) for side in (task.train, task.test))
    return TaskSets(task, *sides)


class Trainer:
    """Trains adapters of one lift on one task, all seeds by one compiled step.

    Args:
      config: has `pooling`, `steps`, `batch_size`, `evaluation_batch_size` and `optimizer`.
      sets: the task.
      base: the encoder.
      lifted: with the adapter.
    """

    def __init__(
        self, config: ConfigDict, sets: TaskSets, base: hub.Pretrained, lifted: lora.Lifted
    ) -> None:
        self.config, self.sets, self.base, self.lifted = config, sets, base, lifted
        self.init = partial(init_variables, base, lifted, sets.task.outputs)
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        self.labels = training.label(shapes, training.LORA, lifted.frozen)
        self.optimizer = training.make_optimizer(config.optimizer, self.labels, config.steps)
        outputs = make_outputs(base, lifted, config.pooling)
        self.step = training.make_step(partial(loss, outputs), self.optimizer)
        self.evaluate = partial(
            score, jax.jit(outputs), sets.task, sets.test, config.evaluation_batch_size
        )

    def start(self, key: jax.Array) -> tuple[training.TrainState, Any]:
        """The state before the first step, and what is frozen."""
        return training.init_state(self.init(key), self.labels, self.optimizer, key)

    def train(self, seed: int) -> tuple[dict[str, Any], Sequence[Row]]:
        """Trains with one seed: the adapter and the head, and the rows of the metrics."""
        state, frozen = self.start(jax.random.key(seed))
        batches = training_batches(self.sets.train, self.config.batch_size, seed=seed)
        result = training.train(
            self.step, state, frozen, batches, steps=self.config.steps, evaluate=self.evaluate
        )
        return {name: result.state.trainable[name] for name in ("adapter", "head")}, result.rows


def save_adapter(
    directory: Path, base: hub.Pretrained, lifted: lora.Lifted, variables: dict[str, Any]
) -> None:
    """Keeps an adapter as PEFT does, and the head beside it, which is written first."""
    directory.mkdir(parents=True, exist_ok=True)
    np.savez(directory / HEAD, allow_pickle=False, **flat(variables["head"]))
    hub.save_peft(directory, lifted, variables["adapter"], params=base.params, overwrite=True)


def read_adapter(
    directory: Path, base: hub.Pretrained, lifted: lora.Lifted, head: Any
) -> dict[str, Any] | None:
    """Reads what `save_adapter` kept, or None if it is not there; `head` has the head's shapes."""
    if not (directory / "adapter_config.json").exists():
        return None
    with np.load(directory / HEAD) as stored:
        leaves = [jax.numpy.asarray(stored[name]) for name in flat(head)]
    factors = hub.load_peft(directory, lifted, params=base.params)
    return {"adapter": factors, "head": jax.tree.unflatten(jax.tree.structure(head), leaves)}


def flat(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree by path, as NumPy arrays; shapes stay shapes."""
    found = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}
