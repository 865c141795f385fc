"""Mixtures of experts: the four ways in which a stack of expert weights meets its tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from tests.lifting.cases.case import Case, inputs, weights


def experts_dense() -> Case:
    """Every expert sees every token."""
    params = weights(up=(3, 8, 6), down=(3, 6, 8), gate=(8, 3))

    def apply(params, x):
        hidden = jax.nn.gelu(jnp.einsum("btd,edf->btef", x, params["up"]))
        each = jnp.einsum("btef,efd->bted", hidden, params["down"])
        return jnp.einsum("bted,bte->btd", each, jax.nn.softmax(x @ params["gate"]))

    return Case(apply, params, (inputs(2, 5, 8),), targets=("up", "down", "gate"))


def experts_dispatched() -> Case:
    """Tokens are gathered into one buffer for each expert."""
    params = weights(w=(3, 8, 6))

    def apply(params, x):
        return jnp.einsum("ecd,edf->ecf", x, params["w"])

    return Case(apply, params, (inputs(3, 5, 8),), targets=("w",))


def experts_ragged() -> Case:
    """Tokens are sorted by expert and the groups have unequal sizes."""
    params = weights(w=(3, 8, 6))
    sizes = jnp.array([3, 5, 2], jnp.int32)

    def apply(params, x):
        return lax.ragged_dot(x, params["w"], sizes)

    return Case(apply, params, (inputs(10, 8),), targets=("w",))


def experts_gathered() -> Case:
    """Each token looks its expert's matrix up: still a weight until it meets the token."""
    params = weights(w=(3, 8, 6))
    choice = jnp.array([0, 2, 1, 1])

    def apply(params, x):
        return jnp.einsum("td,tdf->tf", x, params["w"][choice])

    return Case(apply, params, (inputs(4, 8),), targets=("w",))


def experts_indexed_under_vmap() -> Case:
    """The same, written for one token and mapped."""
    params = weights(w=(3, 8, 6))
    choice = jnp.array([0, 2, 1, 1])

    def apply(params, x):
        return jax.vmap(lambda expert, row: row @ params["w"][expert])(choice, x)

    return Case(apply, params, (inputs(4, 8),), targets=("w",))


CASES = (
    experts_dense,
    experts_dispatched,
    experts_ragged,
    experts_gathered,
    experts_indexed_under_vmap,
)
