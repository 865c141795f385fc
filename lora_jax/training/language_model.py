"""A pretrained decoder that learns to write: its variables, its loss and its score."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lora_jax.data import Examples, evaluation_batches
from lora_jax.hub import Pretrained
from lora_jax.lifting import Lifted
from lora_jax.training.cross_entropy import CHUNK, cross_entropy
from lora_jax.training.labels import Rule
from lora_jax.training.sweep_members import Member, by_task

Variables = Mapping[str, Any]
Batch = Mapping[str, Any]

RULES: Mapping[str, Sequence[Rule]] = {
    "lora": (("adapter/.*", "adapter"), ("params/.*", None)),
    "full": (("params/.*", "params"),),
}
"""What trains, by name: there is no new head, unlike in `training.LORA` and `training.FULL`."""


class Predictions(NamedTuple):
    """How well each place of a batch predicts the token after it.

    Attributes:
      loss: cross-entropy in nats.
      right: whether the next token has the highest logit.
      weight: 1 where the next token is of the same document and to be learnt, else 0.
    """

    loss: Float[Array, "batch length"]
    right: Bool[Array, "batch length"]
    weight: Float[Array, "batch length"]


Outputs = Callable[..., Predictions]


def init_variables(base: Pretrained, lifted: Lifted | None, key: jax.Array) -> dict[str, Any]:
    """Puts new factors, if there is an adapter, beside the params of the base.

    Args:
      base: the pretrained decoder.
      lifted: its function with an adapter; None for none.
      key: the source of randomness.

    Returns:
      `{"params"}`, and `"adapter"`.
    """
    if lifted is None:
        return {"params": base.params}
    return {"params": base.params, "adapter": lifted.init(key, base.params)}


def make_outputs(
    base: Pretrained,
    lifted: Lifted | None,
    chunk: int = CHUNK,
    *,
    frozen_head: bool = False,
    smoothing: float = 0.0,
) -> Outputs:
    """Makes the function that is trained.

    Args:
      base: the pretrained decoder.
      lifted: its function with an adapter; None for none.
      chunk: tokens whose logits are held at once, as in `cross_entropy`.
      frozen_head: for a loss whose head does not train, as in `cross_entropy`: neither its own
        weights nor, where it is tied, the table of tokens. To score, leave it.
      smoothing: of the labels, as in `cross_entropy`; none to score.

    Returns:
      `outputs(variables, batch, rng=None)`, which returns `Predictions`. The batch holds `ids`,
      `trained` and `segments`, as `data.pack` and `data.pad` make them.

    Raises:
      ValueError: the head is to be frozen, and it is adapted.
    """
    adapted = adapted_head(base, lifted)
    if frozen_head and adapted:
        raise ValueError(
            f"frozen_head=True gives the head no gradient, but {', '.join(adapted)} is adapted and "
            "part of it: use frozen_head=False, or leave it out of the targets"
        )
    apply = base.apply  # and not `base`, whose params a caller may want to let go of

    def outputs(variables: Variables, batch: Batch, rng: jax.Array | None = None) -> Predictions:
        targets, weight = next_tokens(batch)
        losses = cross_entropy(targets, chunk, frozen_head=frozen_head, smoothing=smoothing)
        named = {"segments": batch["segments"], "outputs": losses}
        found: Any  # TokenLosses, which is not what the model returns by default
        if lifted is None:
            found = apply(variables["params"], batch["ids"], **named)
        else:
            factors = variables["adapter"]
            found = lifted(variables["params"], factors, batch["ids"], rng=rng, **named)
        return Predictions(found.loss, found.right, weight)

    return outputs


def adapted_head(base: Pretrained, lifted: Lifted | None) -> list[str]:
    """Names the adapted weights that the output head is made of; none may be with `frozen_head`.

    Args:
      base: the pretrained decoder. Where its head is tied, the table of tokens is the head.
      lifted: its function with an adapter; None for none.

    Returns:
      Their paths.
    """
    # A config of several parts does not say; its head is then taken to be tied.
    names = "lm_head|embed" if getattr(base.config, "tied", True) else "lm_head"
    sites = () if lifted is None else lifted.sites
    return [site.path for site in sites if re.fullmatch(rf"(.*/)?({names})/.*", site.path)]


def has_frozen_head(base: Pretrained, lifted: Lifted | None) -> bool:
    """Whether the head does not train, so that `make_outputs` may take `frozen_head`.

    Args:
      base: the pretrained decoder.
      lifted: its function with the adapter that trains; None where the whole decoder does.
    """
    return lifted is not None and not adapted_head(base, lifted)


def next_tokens(batch: Batch) -> tuple[Int[Array, "batch length"], Float[Array, "batch length"]]:
    """What each place of a batch predicts: the token after it.

    Args:
      batch: `ids`, `trained` (1 where a token is to be predicted) and `segments` (0 for padding, a
        number for each document), all `[batch, length]`.

    Returns:
      The next token, and 1 where it is trained and of the same document, else 0. The last place
      predicts nothing.
    """
    ids, trained, segments = (jnp.asarray(batch[name]) for name in ("ids", "trained", "segments"))
    shift = lambda x: jnp.pad(x[:, 1:], ((0, 0), (0, 1)))
    follows = (shift(segments) == segments) & (segments != 0)
    return shift(ids), jnp.where(follows, shift(trained), 0).astype(jnp.float32)


def loss(
    outputs: Outputs, variables: Variables, batch: Batch, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy in nats: the mean over the trained tokens, 0 where there are none.

    Returns:
      The loss, and the metrics `weight`, the number of trained tokens, and `token_accuracy`.
    """
    found = outputs(variables, batch, rng=key)
    weight = found.weight.sum()
    mean = lambda values: (values * found.weight).sum() / jnp.maximum(weight, 1)
    return mean(found.loss), {"weight": weight, "token_accuracy": mean(found.right)}


def score(
    outputs: Outputs, examples: Examples, batch_size: int, variables: Variables
) -> dict[str, float]:
    """Computes loss, perplexity and accuracy over the trained tokens of examples.

    Args:
      outputs: from `make_outputs`, compiled.
      examples: as `data.pack` and `data.pad` make them.
      batch_size: rows of a batch.
      variables: what is scored.

    Returns:
      `loss` in nats a token, `perplexity` and `token_accuracy`.

    Raises:
      ValueError: no token is trained.
    """
    totals = np.zeros(3)
    for batch, real in evaluation_batches(examples, batch_size):
        totals += _totals(outputs(variables, batch), real)
    return _scores(totals)


def totals(outputs: Outputs, variables: Variables, batch: Batch) -> Float[Array, "batch 3"]:
    """Of each row the sums of losses and of right answers over its trained tokens, and how many."""
    found = outputs(variables, batch)
    sums = (found.loss * found.weight, found.right * found.weight, found.weight)
    return jnp.stack([each.sum(-1) for each in sums], -1)


def grade(found: Float[np.ndarray, "examples 3"]) -> dict[str, float]:
    """Computes what `score` does from the `totals` of all examples."""
    return _scores(found.astype(np.float64).sum(0))


def score_members(
    outputs: Outputs,
    members: Sequence[Member],
    sets: Mapping[str, Examples],
    batch_size: int,
    variables: Variables,
) -> dict[str, dict[str, float]]:
    """Scores each member of a sweep on the examples of its task, all of a task at once.

    Args:
      outputs: `sweep.outputs(make_outputs(base, sweep.lifted))`.
      members: of the sweep.
      sets: examples, by the names that the members have for their tasks.
      batch_size: rows of a batch.
      variables: of all members.

    Returns:
      What `score` returns, by the name of each member: as `train_sweep` takes it from `evaluate`.

    Raises:
      ValueError: no token of a task is trained.
    """
    scores = {}
    for task, index in by_task(members).items():
        totals = np.zeros((len(index), 3))
        for batch, real in evaluation_batches(sets[task], batch_size):
            loss, right, weight = map(np.asarray, outputs(variables, batch, index))
            for i in range(len(index)):
                totals[i] += _totals((loss[i], right[i], weight[i]), real)
        for i, own in zip(index, totals, strict=True):
            scores[members[i].name] = _scores(own)
    return scores


def _totals(found: Sequence[Any], real: int) -> np.ndarray:
    """The sums of losses, of right answers and of weights over the first rows."""
    loss, right, weight = (np.asarray(x, np.float64)[:real] for x in found)
    return np.array([(loss * weight).sum(), (right * weight).sum(), weight.sum()])


def _scores(totals: np.ndarray) -> dict[str, float]:
    if not totals[2]:
        raise ValueError("no token of these examples is trained: there is nothing to score")
    loss, accuracy = (totals[:2] / totals[2]).tolist()
    perplexity = math.exp(loss) if loss < 700 else math.inf  # a run that diverged is scored too
    return {"loss": loss, "perplexity": perplexity, "token_accuracy": accuracy}
