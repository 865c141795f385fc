"""What a run will do and what it will take, found out on shapes before any of it is done."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from lora_jax.data import Examples, Task, count
from lora_jax.hub import Tokenizer


def describe_task(task: Task, examples: Examples, tokenizer: Tokenizer) -> str:
    """Describes a task, and shows its first example as the model will read it.

    Args:
      task: the task.
      examples: its training examples, encoded.
      tokenizer: that encoded them.

    Returns:
      A few lines.
    """
    length, real = examples["ids"].shape[1], examples["mask"].sum(axis=1)
    shown = [
        token if mask else f"({token})"
        for token, mask in zip(
            tokenizer.tokens(examples["ids"][0]), examples["mask"][0], strict=True
        )
    ]
    first = task.train[0].label
    return "\n".join(
        (
            f"task: {task.name}, {count(examples):,} training, {len(task.test):,} test examples",
            f"  {task.about}",
            f"  labels: {', '.join(task.classes) or 'scores'}; metric: {task.metric}",
            f"  {length} tokens an example; {np.mean(real == length):.0%} of them are full, the "
            f"median has {np.median(real):.0f}",
            f"  the first, masked tokens in brackets: {' '.join(shown)}",
            f"  its label: {task.classes[int(first)] if task.classes else first}",
        )
    )


def describe_cost(step: Any, state: PyTree, frozen: PyTree, batch: PyTree) -> str:
    """Describes what a step takes; traces it, and compiles nothing.

    Args:
      step: from `training.make_step`.
      state: its state, abstract or not.
      frozen: what is frozen.
      batch: a batch.

    Returns:
      One line.
    """
    gib = 2**30
    trained, frozen_size = _bytes(state.trainable) / gib, _bytes(frozen) / gib
    cost = step.lower(state, frozen, batch).cost_analysis() or {}
    return (
        f"{cost.get('flops', float('nan')) / 1e9:,.1f} GFLOP a step; memory besides activations: "
        f"{frozen_size:.3f} GiB frozen, twice {trained:.3f} trained (with gradients), "
        f"{_bytes(state.opt_state) / gib:.3f} of optimiser state"
    )


def _bytes(tree: PyTree) -> int:
    return sum(x.size * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))
