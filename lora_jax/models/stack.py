"""Layers of one shape, stacked on a leading axis and applied one after another."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx
from jax import lax

from lora_jax.models.rows import keep_rows_split

_LayerT = TypeVar("_LayerT", bound=nnx.Module)
_CarryT = TypeVar("_CarryT")

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
    layers: nnx.Module,
    call: Callable[[Any, _CarryT, Any], _CarryT],
    carry: _CarryT,
    *,
    scan: bool,
    remat: str,
    each: Any = None,
) -> _CarryT:
    """Applies stacked layers in turn, by one scanned program or by one copy of it per layer.

    A scan compiles faster and lets rematerialisation save memory on every backend. Unrolled layers
    are faster on CPU, but there `remat="full"` costs time and was not seen to save memory.

    Args:
        layers: the result of `stack_layers`.
        call: `call(layer, carry, own)` applies one layer; `own` is the layer's slice of `each`.
        carry: what the first layer takes: the hidden state, or a tree that holds it.
        scan: compile the layer once and scan over the stack; otherwise unroll it.
        remat: a name in `REMAT_POLICIES`.
        each: arrays with a leading layer axis that are not parameters, such as each layer's
            attention window.

    Returns:
        What the last layer returns.
    """
    graphdef, stacked = nnx.split(layers)
    carry = keep_rows_split(carry)

    def block(carry: _CarryT, own: Any) -> _CarryT:
        params, rest = own
        return keep_rows_split(call(nnx.merge(graphdef, params), carry, rest))

    def block_at(carry: _CarryT, stacks: Any, i: int) -> _CarryT:
        # Sliced in here, so that rematerialisation keeps the stack and no copy of its slices.
        return block(carry, jax.tree.map(lambda p: lax.index_in_dim(p, i, keepdims=False), stacks))

    if remat != "none":
        policy = REMAT_POLICIES[remat]
        # A scan already keeps the two passes apart; elsewhere XLA would merge them again.
        block = jax.checkpoint(block, policy=policy, prevent_cse=False)
        block_at = jax.checkpoint(block_at, policy=policy, static_argnums=2)
    if scan:
        return lax.scan(lambda h, own: (block(h, own), None), carry, (stacked, each))[0]
    for i in range(jax.tree.leaves(stacked)[0].shape[0]):
        carry = block_at(carry, (stacked, each), i)
    return carry
