"""What depends on the params alone is computed before a loop."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lora_jax.evaluation.invariant import hoist

PARAMS = {"stack": jnp.arange(12.0).reshape(3, 2, 2), "small": jnp.ones(2), "other": jnp.ones(())}


def step(params, state):
    first, *_ = lax.split(params["stack"], (1, 1, 1))  # the others are dropped
    last = params["stack"][2] * 2
    wide = jnp.broadcast_to(params["small"], (50, 2))
    x, kept, _ = state
    return first[0] @ last @ x + wide.sum(0), kept, params["other"]


def test_a_bound_step_computes_the_same():
    state = (jnp.array([1.0, 2.0]), jnp.int32(7), jnp.zeros(()))
    found, wanted = hoist(step, PARAMS, state)(state), step(PARAMS, state)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_slices_are_taken_once_and_what_would_grow_stays_in_the_loop():
    state = (jnp.array([1.0, 2.0]), jnp.int32(7), jnp.zeros(()))
    bound = hoist(step, PARAMS, state)
    left = {eqn.primitive.name for eqn in jax.make_jaxpr(bound)(state).eqns}
    assert not left & {"split", "slice", "squeeze", "mul"}
    assert {"dot_general", "broadcast_in_dim"} <= left
