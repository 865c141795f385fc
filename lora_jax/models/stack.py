"""Layers of one shape, stacked on a leading axis and applied one after another."""

from collections.abc import Callable
from typing import TypeVar

import jax
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

_LayerT = TypeVar("_LayerT", bound=nnx.Module)

# What the backward pass keeps of each layer; the rest is computed again.
REMAT_POLICIES: dict[str, Callable[..., bool]] = {
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def stack_layers(make: Callable[[nnx.Rngs], _LayerT], count: int, rngs: nnx.Rngs) -> _LayerT:
    """Makes `count` layers as one module whose every parameter has a leading layer axis.

    Args:
        make: builds one layer.
        count: number of layers.
        rngs: source of the initial weights, different in each layer.

    Returns:
        The stacked layers, to be applied by `run_stack`.
    """
    return nnx.vmap(lambda key: make(nnx.Rngs(key)))(jax.random.split(rngs.params(), count))


def run_stack(
    layers: _LayerT,
    call: Callable[[_LayerT, Float[Array, "..."]], Float[Array, "..."]],
    hidden: Float[Array, "..."],
    *,
    scan: bool,
    remat: str,
) -> Float[Array, "..."]:
    """Applies stacked layers in turn, by one scanned program or by one copy of it per layer.

    A scan compiles faster and lets rematerialisation save memory on every backend. Unrolled layers
    are faster on CPU, but there `remat="full"` costs time and was not seen to save memory.

    Args:
        layers: the result of `stack_layers`.
        call: applies one layer to the hidden state.
        hidden: input of the first layer.
        scan: compile the layer once and scan over the stack; otherwise unroll it.
        remat: a name in `REMAT_POLICIES`.

    Returns:
        The output of the last layer.
    """
    graphdef, stacked = nnx.split(layers)

    def block(hidden: Array, params: nnx.State) -> Array:
        return call(nnx.merge(graphdef, params), hidden)

    def block_at(hidden: Array, stacked: nnx.State, i: int) -> Array:
        # Sliced in here, so that rematerialisation keeps the stack and no copy of its slices.
        return block(
            hidden, jax.tree.map(lambda p: lax.index_in_dim(p, i, keepdims=False), stacked)
        )

    if remat != "none":
        policy = REMAT_POLICIES[remat]
        # A scan already keeps the two passes apart; elsewhere XLA would merge them again.
        block = jax.checkpoint(block, policy=policy, prevent_cse=False)
        block_at = jax.checkpoint(block_at, policy=policy, static_argnums=2)
    if scan:
        return lax.scan(lambda h, params: (block(h, params), None), hidden, stacked)[0]
    for i in range(jax.tree.leaves(stacked)[0].shape[0]):
        hidden = block_at(hidden, stacked, i)
    return hidden
