"""A step whose loss is not finite, or leaps far above the last ones, leaves everything as it was.

Decided on the device, from the state alone: the host need not wait for the loss, and a resumed run
decides as an uninterrupted one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import PyTree

WINDOW = 64  # losses that the running median is taken over
FEWEST = 8  # losses before a leap is called one


class GuardState(NamedTuple):
    """Holds the state of what is guarded, the last losses, and how many steps were left out."""

    inner: PyTree
    losses: Array | None  # the newest last, NaN where there were not yet so many
    skipped: Array  # int32


def guard(inner: optax.GradientTransformation, spike: float = 0.0) -> optax.GradientTransformation:
    """Lets only sound steps through.

    A step that is left out changes neither the arrays nor the states of `inner`, to the bit; only
    the schedule goes on, so that it ends with the run.

    Args:
      inner: what makes the updates.
      spike: a loss above this many times the median of the last `WINDOW` is no sound one; 0 to
        accept any that is finite. For losses that are positive.

    Returns:
      A transformation that takes the loss as `value`. Without it only the gradients are looked at.

    Raises:
      ValueError: a threshold that would leave out ordinary steps.
    """
    if spike and not spike > 1:
        raise ValueError(f"optimizer.spike = {spike}: above 1 times the median, or 0 for any loss")
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> GuardState:
        losses = jnp.full(WINDOW, jnp.nan, jnp.float32) if spike else None
        return GuardState(inner.init(params), losses, jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree,
        state: GuardState,
        params: PyTree = None,
        *,
        value: Array | None = None,
        **extra: Any,
    ) -> tuple[PyTree, GuardState]:
        loss = jnp.zeros(()) if value is None else value.astype(jnp.float32)
        sound = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(updates))
        losses = state.losses
        if losses is not None:
            known = jnp.isfinite(losses).sum() >= FEWEST
            sound &= ~known | (loss <= spike * jnp.nanmedian(losses))
            # A leap counts too: if the losses stay there, that is where they are.
            losses = jnp.where(jnp.isfinite(loss), jnp.append(losses[1:], loss), losses)
        moved, after = inner.update(updates, state.inner, params, value=value, **extra)
        # -0.0 is what leaves every number as it is: 0.0 would make -0.0 positive.
        moved = jax.tree.map(lambda u: jnp.where(sound, u, jnp.full_like(u, -0.0)), moved)
        kept = jax.tree.map(
            lambda old, new: new if _is_schedule(new) else jnp.where(sound, new, old),
            state.inner,
            after,
            is_leaf=_is_schedule,
        )
        return moved, GuardState(kept, losses, state.skipped + ~sound)

    return optax.GradientTransformationExtraArgs(init, update)


def count_skipped(opt_state: PyTree) -> dict[str, Array]:
    """Returns `{"skipped": number of steps left out so far}`; nothing where there is no guard."""
    return {"skipped": opt_state.skipped} if isinstance(opt_state, GuardState) else {}


def _is_schedule(state: Any) -> bool:
    return isinstance(state, optax.ScaleByScheduleState)
