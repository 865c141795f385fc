"""A pretrained encoder with a head that is learned: its variables, its loss and its score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import logsumexp

from lora_jax.data import Examples, Task, evaluation_batches
from lora_jax.evaluation import find_metric
from lora_jax.hub import Pretrained
from lora_jax.lifting import Lifted
from lora_jax.models.heads import classify, init_classifier, pool
from lora_jax.training.labels import FULL, HEAD_ONLY, LORA
from lora_jax.training.sweep_members import Member, by_task

Variables = Mapping[str, Any]
Batch = Mapping[str, Any]
Outputs = Callable[..., jax.Array]

RULES = {"lora": LORA, "head": HEAD_ONLY, "full": FULL}
"""What trains, by name."""


def init_variables(
    base: Pretrained,
    lifted: Lifted | None,
    outputs: int,
    key: jax.Array,
    *,
    dense: bool = False,
) -> dict[str, Any]:
    """Puts a new head, and new factors if there is an adapter, beside the params of the base.

    Args:
      base: the pretrained encoder.
      lifted: its function with an adapter; None for none.
      outputs: numbers that the head returns for a text.
      key: the source of randomness.
      dense: whether the head has RoBERTa's extra layer.

    Returns:
      `{"params", "head"}`, and `"adapter"`.
    """
    head_key, adapter_key = jax.random.split(key)
    variables = {"params": base.params}
    variables["head"] = init_classifier(head_key, base.config.dim, outputs, dense=dense)
    if lifted is not None:
        variables["adapter"] = lifted.init(adapter_key, base.params)
    return variables


def make_outputs(
    base: Pretrained, lifted: Lifted | None, pooling: str, *, dropout: float = 0.0
) -> Outputs:
    """Makes `outputs(variables, batch, rng=None)`, which returns an array [batch, outputs].

    Args:
      base: the pretrained encoder.
      lifted: its function with an adapter; None for none.
      pooling: "mean" or "cls".
      dropout: rate on what the head takes in, wherever there is an `rng`.

    Raises:
      ValueError: the rate is not in [0, 1).
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"the head's dropout is {dropout}, but a rate lies in [0, 1)")
    apply = base.apply  # and not `base`, whose params a caller may want to let go of

    def outputs(variables: Variables, batch: Batch, rng: jax.Array | None = None) -> jax.Array:
        inputs = batch["ids"], batch["mask"], batch["type_ids"]
        if lifted is None:
            hidden = apply(variables["params"], *inputs)
        else:
            hidden = lifted(variables["params"], variables["adapter"], *inputs, rng=rng)
        pooled = pool(hidden, batch["mask"], pooling)
        # Another key than the adapter's dropout draws from.
        key = None if rng is None or not dropout else jax.random.fold_in(rng, 1)
        found = classify(variables["head"], pooled, dropout=dropout, key=key)
        if "classes" in variables:  # a member of a sweep, whose head is filled up
            found = jnp.where(jnp.arange(found.shape[-1]) < variables["classes"], found, -jnp.inf)
        return found

    return outputs


def loss(
    outputs: Outputs, variables: Variables, batch: Batch, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of classes, or the squared error of scores; the mean over the batch."""
    found, labels = outputs(variables, batch, rng=key), batch["label"]
    if np.issubdtype(labels.dtype, np.integer):
        return optax.softmax_cross_entropy_with_integer_labels(found, labels).mean(), {}
    return optax.squared_error(found[:, 0], labels).mean(), {}


def score(
    outputs: Outputs, task: Task, examples: Examples, batch_size: int, variables: Variables
) -> dict[str, float]:
    """Computes the metric of a task on examples; `outputs` should be compiled."""
    predicted = predict(outputs, task, examples, batch_size, variables)
    return {task.metric: find_metric(task.metric)(predicted, examples["label"])}


def grade(task: Task, found: np.ndarray, examples: Examples) -> dict[str, float]:
    """Computes the loss and the metric of a task from what the head returned.

    Args:
      task: of classes or of scores.
      found: `[examples, outputs]`; what is not finite, of a run that diverged, is graded nan.
      examples: what is right.

    Returns:
      "loss", as of `loss` over all examples, and the metric.
    """
    if not np.isfinite(found).all():
        return {"loss": np.nan, task.metric: np.nan}
    labels, predicted = examples["label"], labels_of(task, found)
    if task.classes:
        losses = logsumexp(found, axis=-1) - found[np.arange(len(found)), labels]
    else:
        losses = (predicted - labels) ** 2
    metric = float(find_metric(task.metric)(predicted, labels))
    return {"loss": float(losses.mean()), task.metric: metric}


def labels_of(task: Task, found: np.ndarray) -> np.ndarray:
    """The class of the highest logit, or the score, of each example."""
    return found.argmax(-1) if task.classes else found[:, 0]


def predict(
    outputs: Outputs, task: Task, examples: Examples, batch_size: int, variables: Variables
) -> np.ndarray:
    """Predicts the class of each example, or its score; `outputs` should be compiled."""
    batches = evaluation_batches(examples, batch_size)
    found = np.concatenate([np.asarray(outputs(variables, b))[:real] for b, real in batches])
    return labels_of(task, found)


def score_members(
    outputs: Outputs,
    members: Sequence[Member],
    tasks: Mapping[str, Task],
    sets: Mapping[str, Examples],
    batch_size: int,
    variables: Variables,
) -> dict[str, dict[str, float]]:
    """Computes the metric of its task for each member of a sweep, for all of a task at once.

    Args:
      outputs: `sweep.outputs(make_outputs(base, sweep.lifted, pooling))`.
      members: of the sweep.
      tasks: by the names that the members have for them.
      sets: their examples, by the same names.
      batch_size: rows of a batch.
      variables: of all members.

    Returns:
      The metric by the name of each member, as `train_sweep` takes it from `evaluate`.
    """
    scores = {}
    for name, index in by_task(members).items():
        task, examples = tasks[name], sets[name]
        batches = evaluation_batches(examples, batch_size)
        parts = [np.asarray(outputs(variables, b, index))[:, :real] for b, real in batches]
        for i, found in zip(index, np.concatenate(parts, axis=1), strict=True):
            value = find_metric(task.metric)(labels_of(task, found), examples["label"])
            scores[members[i].name] = {task.metric: value}
    return scores
