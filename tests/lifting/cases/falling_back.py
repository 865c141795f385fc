"""Uses that cannot be factored: the dense W + ΔW is used there, and said so.

Each is either no product of W with data (a norm, a penalty, a product of two weights), or a
user's own derivative rule, which keeps its meaning only if it sees the weight itself.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from tests.lifting.cases.case import Case, inputs, weights
from tests.lifting.cases.linen import linen_case


def layer_with_a_custom_derivative() -> Case:
    """More than a product: what the factors add cannot be told from the rest."""

    @jax.custom_vjp
    def layer(x, w):
        return jnp.tanh(x @ w)

    def backward(saved, g):
        x, w = saved
        g = g * (1 - jnp.tanh(x @ w) ** 2)
        return g @ w.T, x.T @ g

    layer.defvjp(lambda x, w: (layer(x, w), (x, w)), backward)
    return Case(
        lambda params, x: layer(x, params["w"]),
        weights(w=(8, 6)),
        (inputs(5, 8),),
        targets=("w",),
        fallbacks=frozenset({("w", "custom_vjp_call")}),
    )


def weight_normalisation() -> Case:
    def apply(params, x):
        return x @ (params["w"] / jnp.linalg.norm(params["w"], axis=0))

    return Case(
        apply,
        weights(w=(8, 6)),
        (inputs(5, 8),),
        targets=("w",),
        fallbacks=frozenset({("w", "mul"), ("w", "div")}),
    )


def penalty_on_a_weight() -> Case:
    def apply(params, x):
        return (x @ params["w"]).sum() + 1e-2 * (params["w"] ** 2).sum()

    return Case(
        apply,
        weights(w=(8, 6)),
        (inputs(5, 8),),
        targets=("w",),
        fallbacks=frozenset({("w", "integer_pow")}),
    )


def depthwise_convolution() -> Case:
    return linen_case(
        nn.Conv(4, (3,), feature_group_count=4),
        inputs(2, 9, 4),
        targets=("kernel",),
        fallbacks=frozenset({("kernel", "conv_general_dilated")}),
    )


def product_of_two_weights() -> Case:
    """One of the two (the smaller, the first if equal) is made dense; the other stays lazy."""
    return Case(
        lambda params, x: x @ (params["a"] @ params["b"]),
        weights(a=(8, 4), b=(4, 9)),
        (inputs(5, 8),),
        targets=("a", "b"),
        fallbacks=frozenset({("a", "dot_general")}),
    )


def weight_updated_in_a_loop_carry() -> Case:
    """A fast weight: what the loop carries is no longer the frozen one."""

    def apply(params, x):
        def body(carry, _):
            w, x = carry
            return (0.9 * w, jnp.tanh(x @ w)), None

        return lax.scan(body, (params["w"], x), length=3)[0][1]

    return Case(
        apply,
        weights(w=(8, 8)),
        (inputs(5, 8),),
        targets=("w",),
        fallbacks=frozenset({("w", "scan")}),
    )


def weight_chosen_by_a_mask() -> Case:
    def apply(params, x):
        return x @ jnp.where(jnp.eye(8, dtype=bool), 0, params["w"])

    return Case(
        apply,
        weights(w=(8, 8)),
        (inputs(5, 8),),
        targets=("w",),
        fallbacks=frozenset({("w", "select_n")}),
    )


def weight_that_is_an_output() -> Case:
    return Case(
        lambda params, x: (x @ params["w"], params["w"]),
        weights(w=(8, 6)),
        (inputs(5, 8),),
        targets=("w",),
        fallbacks=frozenset({("w", "return")}),
    )


def branches_of_a_vmapped_cond() -> Case:
    """JAX makes both branches of it, and chooses the *operands* of each row's branch by masks."""

    def apply(params, x):
        def first(row):
            return row @ params["a"]

        def second(row):
            return jnp.tanh(row @ params["b"])

        return jax.vmap(lambda row: lax.cond(row.sum() > 0, first, second, row))(x)

    return Case(
        apply,
        weights(a=(8, 6), b=(8, 6)),
        (inputs(5, 8),),
        targets=("a", "b"),
        fallbacks=frozenset({("a", "select_n"), ("b", "select_n")}),
    )


CASES = (
    layer_with_a_custom_derivative,
    weight_normalisation,
    penalty_on_a_weight,
    depthwise_convolution,
    product_of_two_weights,
    weight_updated_in_a_loop_carry,
    weight_chosen_by_a_mask,
    weight_that_is_an_output,
    branches_of_a_vmapped_cond,
)
