"""Control flow: scan, while, fori, cond, remat, and weights that travel through them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from tests.lifting.cases.case import Case, inputs, weights


def decode_in_a_while_loop() -> Case:
    """Greedy decoding with a key-value cache and a tied table."""
    dim, vocabulary, length = 8, 16, 6
    params = weights(table=(vocabulary, dim), q=(dim, dim), k=(dim, dim), v=(dim, dim))

    def apply(params, token):
        def body(state):
            i, token, keys, values, scores = state
            x = params["table"][token]
            keys = keys.at[i].set(x @ params["k"])
            values = values.at[i].set(x @ params["v"])
            visible = jnp.where(jnp.arange(length) <= i, keys @ (x @ params["q"]), -1e9)
            logits = jax.nn.softmax(visible) @ values @ params["table"].T
            return i + 1, jnp.argmax(logits), keys, values, scores.at[i].set(logits)

        cache = jnp.zeros((length, dim), params["k"].dtype)
        scores = jnp.zeros((length, vocabulary), params["k"].dtype)
        start = (0, token, cache, cache, scores)
        return lax.while_loop(lambda state: state[0] < length, body, start)[-1]

    return Case(
        apply, params, (jnp.array(3),), targets=("table", "q", "k", "v"), reverse_mode=False
    )


def params_in_a_while_carry() -> Case:
    """Params handed unchanged through a loop's carry stay lazy."""
    params = weights(w=(8, 8))

    def apply(params, x):
        def body(carry):
            i, params, x = carry
            return i + 1, params, jnp.tanh(x @ params["w"])

        return lax.while_loop(lambda carry: carry[0] < 4, body, (0, params, x))[2]

    return Case(apply, params, (inputs(5, 8),), targets=("w",), reverse_mode=False)


def params_in_a_scan_carry() -> Case:
    params = weights(w=(8, 8))

    def apply(params, x):
        def body(carry, _):
            params, x = carry
            return (params, jnp.tanh(x @ params["w"])), None

        return lax.scan(body, (params, x), length=4)[0][1]

    return Case(apply, params, (inputs(5, 8),), targets=("w",))


def recurrent_network() -> Case:
    """The weights are constants of the scan; time is scanned."""
    params = weights(wx=(8, 6), wh=(6, 6))

    def apply(params, xs):
        def step(hidden, x):
            hidden = jnp.tanh(x @ params["wx"] + hidden @ params["wh"])
            return hidden, hidden

        return lax.scan(step, jnp.zeros((6,), xs.dtype), xs)[1]

    return Case(apply, params, (inputs(5, 8),), targets=("wx", "wh"))


def branches_of_a_cond() -> Case:
    params = weights(a=(8, 6), b=(8, 6))

    def apply(params, x):
        def first(x):
            return x @ params["a"]

        def second(x):
            return jnp.tanh(x @ params["b"])

        return lax.cond(x.sum() > 0, first, second, x)

    return Case(apply, params, (inputs(5, 8),), targets=("a", "b"))


def stacked_layers_indexed_in_python() -> Case:
    params = weights(w=(3, 8, 8))

    def apply(params, x):
        for i in range(3):
            x = jnp.tanh(x @ params["w"][i])
        return x

    return Case(apply, params, (inputs(5, 8),), targets=("w",))


def stacked_layers_indexed_in_a_fori_loop() -> Case:
    params = weights(w=(3, 8, 8))

    def apply(params, x):
        return lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ params["w"][i]), x)

    return Case(apply, params, (inputs(5, 8),), targets=("w",))


def scan_over_layers_and_over_time() -> Case:
    params = weights(w=(3, 8, 8))

    def apply(params, xs):
        def layer(xs, w):
            def step(carry, x):
                carry = 0.5 * (carry + jnp.tanh(x @ w))
                return carry, carry

            return lax.scan(step, jnp.zeros((8,), xs.dtype), xs)[1], None

        return lax.scan(layer, xs, params["w"])[0]

    return Case(apply, params, (inputs(5, 8),), targets=("w",))


def reversed_and_unrolled_scan() -> Case:
    params = weights(w=(4, 8, 8))

    def apply(params, x):
        def layer(x, w):
            return (jnp.tanh(x @ w), x.sum())

        return lax.scan(layer, x, params["w"], reverse=True, unroll=2)

    return Case(apply, params, (inputs(5, 8),), targets=("w",))


def remat_with_a_policy() -> Case:
    params = weights(w=(8, 8), v=(8, 8))

    def apply(params, x):
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        block = jax.checkpoint(
            lambda params, x: jnp.tanh(jnp.tanh(x @ params["w"]) @ params["v"]), policy=policy
        )
        return block(params, block(params, x))

    return Case(apply, params, (inputs(5, 8),), targets=("w", "v"))


def nested_jit() -> Case:
    """A jitted sub-function that is called twice, with two different weights."""
    params = weights(a=(8, 8), b=(8, 8))

    def apply(params, x):
        layer = jax.jit(lambda w, x: jnp.tanh(x @ w))
        return layer(params["b"], layer(params["a"], x))

    return Case(apply, params, (inputs(5, 8),), targets=("a", "b"))


CASES = (
    decode_in_a_while_loop,
    params_in_a_while_carry,
    params_in_a_scan_carry,
    recurrent_network,
    branches_of_a_cond,
    stacked_layers_indexed_in_python,
    stacked_layers_indexed_in_a_fori_loop,
    scan_over_layers_and_over_time,
    reversed_and_unrolled_scan,
    remat_with_a_policy,
    nested_jit,
)
