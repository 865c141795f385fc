"""The exponential moving average of what trains, kept among the states of the optimiser.

So it is saved, restored, sharded and donated as these are, and no step knows of it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree


class AverageState(NamedTuple):
    """Holds the average of the trainable arrays, in at least float32."""

    average: PyTree


def track_average(decay: float) -> optax.GradientTransformation:
    """Keeps average = decay · average + (1 - decay) · arrays; the last transformation of a chain.

    Args:
      decay: above 0 and below 1; the average spans about 1 / (1 - decay) steps.

    Returns:
      A transformation that passes updates on as they are.

    Raises:
      ValueError: a decay out of range.
    """
    if not 0 < decay < 1:
        raise ValueError(f"optimizer.ema = {decay}: a decay is above 0 and below 1 (0: no average)")

    def init(params: PyTree) -> AverageState:
        return AverageState(jax.tree.map(_widened, params))

    def update(updates: PyTree, state: AverageState, params: PyTree) -> tuple[PyTree, AverageState]:
        moved = optax.apply_updates(params, updates)
        return updates, AverageState(
            jax.tree.map(lambda a, x: decay * a + (1 - decay) * x, state.average, moved)
        )

    return optax.GradientTransformation(init, update)


def averaged(trainable: PyTree, opt_state: PyTree) -> PyTree:
    """Returns the average of the trainable arrays, in their dtypes.

    Args:
      trainable: the arrays themselves.
      opt_state: of an optimiser whose config has an `ema`.

    Returns:
      A tree like `trainable`.

    Raises:
      ValueError: the optimiser keeps no average.
    """
    is_average = lambda x: isinstance(x, AverageState)
    found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_average) if is_average(x)]
    if not found:
        raise ValueError("there is no average to evaluate: set optimizer.ema, such as 0.99")
    return jax.tree.map(lambda x, a: a.astype(x.dtype), trainable, found[0].average)


def _widened(x: jax.Array) -> jax.Array:
    return jnp.array(x, jnp.promote_types(x.dtype, jnp.float32), copy=True)
