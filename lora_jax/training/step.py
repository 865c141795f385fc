"""The training step: one `jax.jit` that differentiates what trains, and reads what is frozen."""

import contextlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jaxtyping import PyTree

from lora_jax.training.guard import count_skipped
from lora_jax.training.labels import join
from lora_jax.training.optimizer import Optimizer
from lora_jax.training.sharding import Shardings
from lora_jax.training.state import TrainState

LossFn = Callable[[PyTree, PyTree, Array], tuple[Array, Mapping[str, Array]]]
StepFn = Callable[[TrainState, PyTree, PyTree], tuple[TrainState, dict[str, Array]]]

# A loss, its metrics and its gradient.
_Found = tuple[Array, Mapping[str, Array], PyTree]


def make_step(
    loss_fn: LossFn,
    optimizer: Optimizer,
    shardings: Shardings | None = None,
    micro_batches: int = 1,
) -> StepFn:
    """Compiles one update.

    The gradient is taken with respect to `state.trainable` alone: for a frozen array no gradient
    and no optimiser state exists, in the program or in memory. The state is donated, so an update
    takes place in its own buffers; the frozen tree and the batch are not.

    Args:
      loss_fn: `loss_fn(variables, batch, key) -> (loss, metrics)` with a scalar mean loss and a
        dict of scalars. `variables` is the whole tree that was split. A mean that is weighted, say
        over the tokens of the batch, has its total weight as the metric `weight`.
      optimizer: from `optimizer.make_optimizer`.
      shardings: where state, frozen tree and batch live on a mesh; `None` for one device.
      micro_batches: parts into which the rows of a batch are split, at least 1. They are computed
        one after another, so activations are those of one part. Their losses, gradients and
        metrics are averaged by weight: the update is that of the whole batch. Each part has a
        random key of its own.

    Returns:
      `step(state, frozen, batch) -> (state, metrics)`. The metrics are `loss`, `grad_norm` (global
      norm, before clipping), `lr`, `skipped` (steps that the optimiser's guard left out so far),
      and those of `loss_fn`. The state passed in is gone afterwards.

    Raises:
      ValueError: fewer than one micro-batch; from `step`, a batch that they do not divide.
    """
    if micro_batches < 1:
        raise ValueError(f"micro_batches = {micro_batches}: at least 1 is needed")

    def step(
        state: TrainState, frozen: PyTree, batch: PyTree
    ) -> tuple[TrainState, dict[str, Array]]:
        def differentiate(batch: PyTree, key: Array) -> _Found:
            def loss_of(trainable: PyTree) -> tuple[Array, Mapping[str, Array]]:
                with _using_mesh(shardings):
                    return loss_fn(join(trainable, frozen), batch, key)

            (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.trainable)
            return loss, metrics, gradient

        key = jax.random.fold_in(state.key, state.step)
        if micro_batches == 1:
            loss, metrics, gradient = differentiate(batch, key)
        else:
            parts = _split(batch, micro_batches, shardings)
            loss, metrics, gradient = _accumulate(differentiate, parts, key)
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


def _split(batch: PyTree, count: int, shardings: Shardings | None) -> PyTree:
    """The parts of a batch on a new leading axis; part i holds every count-th row from i.

    So each device has as many rows of every part, and rows stay where they are.
    """
    devices = 1
    if shardings is not None:
        axes = shardings.batch.spec[0] if shardings.batch.spec else ()
        names = () if axes is None else (axes,) if isinstance(axes, str) else axes
        for name in names:
            devices *= shardings.batch.mesh.shape[name]

    def split(rows: Array) -> Array:
        if len(rows) % (count * devices):
            over = f" on {devices} devices" if devices > 1 else ""
            raise ValueError(
                f"a batch of {len(rows)} rows{over} does not divide into {count} micro-batches: "
                f"it must be a multiple of {count * devices}"
            )
        return jnp.moveaxis(rows.reshape(-1, count, *rows.shape[1:]), 1, 0)

    return jax.tree.map(split, batch)


def _accumulate(
    differentiate: Callable[[PyTree, Array], _Found], parts: PyTree, key: Array
) -> _Found:
    """The weighted mean of what is found in each part; the metric `weight` is their sum."""

    def weigh(part: tuple[Array, PyTree]) -> tuple[Array, _Found]:
        number, batch = part
        found = differentiate(batch, jax.random.fold_in(key, number))
        weight = _wide(found[1].get("weight", jnp.ones(())))
        return weight, jax.tree.map(lambda x: weight * _wide(x), found)

    def add(sums: PyTree, part: tuple[Array, PyTree]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, sums, weigh(part)), None

    numbered = jnp.arange(len(jax.tree.leaves(parts)[0])), parts
    first = jax.tree.map(lambda rows: rows[0], numbered)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(weigh, first))
    (total, sums), _ = lax.scan(add, zeros, numbered)
    # Where nothing has weight all sums are zero, and so are the means.
    mean = lambda total_of, like: (total_of / jnp.where(total == 0, 1, total)).astype(like.dtype)
    found = jax.eval_shape(differentiate, first[1], key)
    loss, metrics, gradient = jax.tree.map(mean, sums, found)
    return loss, ({**metrics, "weight": total} if "weight" in metrics else metrics), gradient


def _wide(x: Array) -> Array:
    """In at least float32, in which sums are taken."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
