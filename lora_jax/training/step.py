"""The training step: one `jax.jit` that differentiates what trains, and reads what is frozen."""

import contextlib
from collections.abc import Callable, Mapping

import jax
import optax
from jax import Array
from jaxtyping import PyTree

from lora_jax.training.guard import count_skipped
from lora_jax.training.labels import join
from lora_jax.training.optimizer import Optimizer
from lora_jax.training.sharding import Shardings
from lora_jax.training.state import TrainState

LossFn = Callable[[PyTree, PyTree, Array], tuple[Array, Mapping[str, Array]]]
StepFn = Callable[[TrainState, PyTree, PyTree], tuple[TrainState, dict[str, Array]]]


def make_step(loss_fn: LossFn, optimizer: Optimizer, shardings: Shardings | None = None) -> StepFn:
    """Compiles one update.

    The gradient is taken with respect to `state.trainable` alone: for a frozen array no gradient
    and no optimiser state exists, in the program or in memory. The state is donated, so an update
    takes place in its own buffers; the frozen tree and the batch are not.

    Args:
      loss_fn: `loss_fn(variables, batch, key) -> (loss, metrics)` with a scalar mean loss and a
        dict of scalars. `variables` is the whole tree that was split.
      optimizer: from `optimizer.make_optimizer`.
      shardings: where state, frozen tree and batch live on a mesh; `None` for one device.

    Returns:
      `step(state, frozen, batch) -> (state, metrics)`. The metrics are `loss`, `grad_norm` (global
      norm, before clipping), `lr`, `skipped` (steps that the optimiser's guard left out so far),
      and those of `loss_fn`. The state passed in is gone afterwards.
    """

    def step(
        state: TrainState, frozen: PyTree, batch: PyTree
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)

        def loss_of(trainable: PyTree) -> tuple[Array, Mapping[str, Array]]:
            with _using_mesh(shardings):
                return loss_fn(join(trainable, frozen), batch, key)

        (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.trainable)
        updates, opt_state = optimizer.update(
            gradient, state.opt_state, state.trainable, value=loss
        )
        trainable = optax.apply_updates(state.trainable, updates)
        report = {
            "loss": loss,
            "grad_norm": optax.tree.norm(gradient),
            "lr": optimizer.schedule(state.step),
            **count_skipped(opt_state),
            **metrics,
        }
        return TrainState(state.step + 1, trainable, opt_state, state.key), report

    if shardings is None:
        return jax.jit(step, donate_argnames="state")
    replicated = shardings.state.step
    return jax.jit(
        step,
        donate_argnames="state",
        in_shardings=(shardings.state, shardings.frozen, shardings.batch),
        out_shardings=(shardings.state, replicated),
    )


def _using_mesh(shardings: Shardings | None) -> contextlib.AbstractContextManager[None]:
    """Tells the model of the mesh, so that it keeps the rows of the batch split."""
    if shardings is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(shardings.batch.mesh.abstract_mesh)
