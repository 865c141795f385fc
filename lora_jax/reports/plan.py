"""What a run will do and what it will take, found out on shapes before any of it is done."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import PyTree

from lora_jax.data import EncodedTexts, Examples, Task, TextEncoder, TextTask, count, efficiency
from lora_jax.data.packing import Example, Rows
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


def describe_text_task(
    task: TextTask, encoded: EncodedTexts, rows: Rows, encoder: TextEncoder
) -> str:
    """Describes a task of answers, and shows its first example, in it what is trained.

    Args:
      task: the task.
      encoded: its training examples.
      rows: the same, packed or padded.
      encoder: that encoded them.

    Returns:
      A few lines.
    """
    lengths = [len(example["ids"]) for example in encoded.examples]
    trained = sum(int(example["trained"].sum()) for example in encoded.examples)
    return "\n".join(
        (
            f"task: {task.name}, {len(task.train):,} training, {len(task.test):,} test examples",
            f"  {task.about}",
            f"  metrics: {', '.join(task.metrics) or 'the loss alone'}",
            f"  {len(lengths):,} examples of {np.median(lengths):.0f} tokens (median; at most "
            f"{max(lengths)}) in {count(rows):,} rows of {encoder.length}, {efficiency(rows):.0%} "
            f"of them filled; {trained / sum(lengths):.0%} of the tokens are trained",
            f"  {len(encoded.cut):,} prompts are cut, {len(encoded.skipped):,} records left out",
            f"  the first example, trained tokens between ⟦ and ⟧: "
            f"{mark_trained(encoded.examples[0], encoder.tokenizer)!r}",
        )
    )


def mark_trained(example: Example, tokenizer: Tokenizer) -> str:
    """Spells an example, control tokens by their names, each trained stretch in ⟦ ⟧."""
    ids, trained = example["ids"], example["trained"]
    edges = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(ids)]
    spelt = (
        (tokenizer.decode(ids[start:stop], special=True), trained[start])
        for start, stop in itertools.pairwise(edges)
    )
    return "".join(f"⟦{text}⟧" if is_trained else text for text, is_trained in spelt)


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
    trained, mib = _bytes(state.trainable) / 2**20, 2**-20
    flops = matmul_flops(step.trace(state, frozen, batch).jaxpr.jaxpr)
    return (
        f"{flops / 1e9:,.1f} GFLOP a step in matrix products; memory besides activations, in MiB: "
        f"{_bytes(frozen) * mib:,.1f} frozen, {trained:,.1f} trained, {trained:,.1f} of gradients, "
        f"{_bytes(state.opt_state) * mib:,.1f} of optimiser state"
    )


def matmul_flops(jaxpr: Jaxpr) -> int:
    """Counts the operations of all matrix products, a scanned one as often as it runs.

    XLA's own count takes the body of a loop once.

    >>> x = jax.numpy.ones((4, 8))
    >>> matmul_flops(jax.make_jaxpr(lambda x: x @ x.T)(x).jaxpr) == 2 * 4 * 8 * 4
    True
    """
    total = 0
    for equation in jaxpr.eqns:
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(map(matmul_flops, _inner(equation.params)))
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left: Any = equation.invars[0].aval
            result: Any = equation.outvars[0].aval
            total += 2 * result.size * math.prod(left.shape[axis] for axis in contracted)
    return total


def _inner(parameters: Mapping[str, Any]) -> Iterator[Jaxpr]:
    is_jaxpr = lambda value: isinstance(value, ClosedJaxpr | Jaxpr)
    for value in jax.tree.leaves(list(parameters.values()), is_leaf=is_jaxpr):
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value


def _bytes(tree: PyTree) -> int:
    return sum(x.size * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))
