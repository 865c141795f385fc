"""The state of a run: everything that a step changes, and everything that a checkpoint holds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key, PyTree

from lora_jax.training.labels import split
from lora_jax.training.optimizer import Optimizer


class TrainState(NamedTuple):
    """What a step takes, donates and returns. Frozen arrays are no part of it."""

    step: Array  # int32: number of updates made
    trainable: PyTree
    opt_state: PyTree
    key: Array  # the run's key; step n uses fold_in(key, n)


def init_state(
    variables: PyTree, labels: PyTree, optimizer: Optimizer, key: Key[Array, ""]
) -> tuple[TrainState, PyTree]:
    """Starts a run.

    The trainable arrays are copied, because the step donates its state: the caller's arrays stay
    valid, and several runs may start from the same ones. The frozen ones are passed on as they
    are.

    Args:
      variables: `{"params": ..., "adapter": ..., "head": ...}`.
      labels: the label tree of `labels.label`.
      optimizer: what `optimizer.make_optimizer` built from the same labels.
      key: the run's random key (`jax.random.key(seed)`).

    Returns:
      `(state, frozen)`, the first two arguments of a step.
    """
    trainable, frozen = split(variables, labels)
    trainable = jax.tree.map(jnp.copy, trainable)
    opt_state = optimizer.init(trainable)
    return TrainState(jnp.zeros((), jnp.int32), trainable, opt_state, jnp.copy(key)), frozen
