"""Plain functions: products, views of weights, tied and fused weights, other people's rules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from tests.lifting.cases.case import Case, inputs, tokens, weights


def plain_einsums() -> Case:
    """The axes of a weight in every order: in first, out first, and out around the batch."""
    params = weights(q=(8, 2, 4), o=(2, 4, 8), s=(3, 8, 2, 4))

    def apply(params, x):
        heads = jnp.einsum("btd,dhk->bthk", x, params["q"])
        joined = jnp.einsum("bthk,hkd->btd", jnp.tanh(heads), params["o"])
        return jnp.einsum("btd,sdhk->sbthk", joined, params["s"])

    return Case(apply, params, (inputs(2, 5, 8),), targets=("q", "o", "s"))


def plain_attention() -> Case:
    params = weights(q=(8, 2, 4), k=(8, 2, 4), v=(8, 2, 4), o=(2, 4, 8))

    def apply(params, x):
        q, k, v = (jnp.einsum("btd,dhk->bthk", x, params[name]) for name in "qkv")
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return jnp.einsum("bthk,hkd->btd", mixed, params["o"])

    return Case(apply, params, (inputs(2, 5, 8),), targets=("q", "k", "v", "o"))


def reshaped_transposed_scaled_and_sliced() -> Case:
    params = weights(w=(8, 12))

    def apply(params, x):
        heads = params["w"].reshape(8, 3, 4).transpose(1, 0, 2)
        part = (2.0 * params["w"])[:, :4] / 3.0
        return jnp.einsum("bd,hdk->bhk", x, heads) + (x @ part)[:, None]

    return Case(apply, params, (inputs(5, 8),), targets=("w",))


def reversed_expanded_and_broadcast() -> Case:
    """Views that grow, shrink and mirror axes."""
    params = weights(w=(8, 6))

    def apply(params, x):
        mirrored = jnp.flip(params["w"], axis=(0, 1))
        stacked = jnp.broadcast_to(mirrored[None], (5, 8, 6))  # one copy for each row of x
        return jnp.einsum("bd,bdk->bk", x, stacked) + x @ jnp.squeeze(params["w"][None], 0)

    return Case(apply, params, (inputs(5, 8),), targets=("w",))


def weight_on_the_left_of_the_product() -> Case:
    params = weights(w=(8, 6))
    return Case(
        lambda params, x: jax.vmap(lambda row: jnp.tanh(params["w"].T @ row))(x),
        params,
        (inputs(5, 8),),
        targets=("w",),
    )


def ensemble_of_weights_by_vmap() -> Case:
    """`vmap` over the weights themselves makes their first axis a batch axis."""
    params = weights(w=(3, 8, 6))

    def apply(params, x):
        return jax.vmap(lambda w, x: jnp.tanh(x @ w), in_axes=(0, None))(params["w"], x)

    return Case(apply, params, (inputs(5, 8),), targets=("w",))


def one_weight_used_both_ways() -> Case:
    params = weights(w=(8, 8))

    def apply(params, x):
        w = params["w"]
        return jnp.tanh(jnp.tanh(x @ w) @ w.T) @ w

    return Case(apply, params, (inputs(5, 8),), targets=("w",))


def fused_qkv_that_is_split() -> Case:
    params = weights(qkv=(8, 18))

    def apply(params, x):
        q, k, v = jnp.split(params["qkv"], 3, axis=1)
        return jnp.tanh(x @ q) + (x @ k) * (x @ v)

    return Case(apply, params, (inputs(5, 8),), targets=("qkv",))


def weights_that_are_concatenated() -> Case:
    params = weights(q=(8, 6), k=(8, 4))

    def apply(params, x):
        return x @ jnp.concatenate([params["q"], params["k"]], axis=1)

    return Case(apply, params, (inputs(5, 8),), targets=("q", "k"))


def one_of_two_concatenated_weights() -> Case:
    return weights_that_are_concatenated()._replace(targets=("k",))


def looked_up_by_one_hot() -> Case:
    params = weights(table=(16, 8))
    return Case(
        lambda params, ids: jax.nn.one_hot(ids, 16) @ params["table"],
        params,
        (tokens(5),),
        targets=("table",),
    )


def columns_and_rows_by_index() -> Case:
    """Look-ups along either axis; an index past the end gives the fill value, whatever W is."""
    params = weights(w=(16, 8))

    def apply(params, ids, x):
        columns = jnp.take(params["w"], ids % 8, axis=1)
        rows = jnp.take(params["w"], ids + 8, axis=0, mode="fill", fill_value=3.0)
        return x @ columns + rows.sum(axis=1)

    return Case(apply, params, (tokens(5), inputs(4, 16)), targets=("w",))


def activation_with_a_custom_derivative() -> Case:
    """A custom rule that touches no adapted weight is evaluated as it is, derivative included."""

    @jax.custom_vjp
    def leaky(x):
        return jnp.where(x > 0, x, 0.1 * x)

    # Not the true derivative, so a rule that was lost or replaced by autodiff shows.
    leaky.defvjp(lambda x: (leaky(x), x), lambda x, g: (jnp.where(x > 0, g, 0.5 * g),))
    params = weights(a=(8, 12), b=(12, 4))
    return Case(
        lambda params, x: leaky(x @ params["a"]) @ params["b"],
        params,
        (inputs(5, 8),),
        targets=("a", "b"),
    )


def products_with_custom_derivatives() -> Case:
    """The base keeps its rule, which sees no weight; here it is the true one, in another order."""

    @jax.custom_vjp
    def product(x, w):
        return lax.dot_general(x, w, (((1,), (0,)), ((), ())))

    product.defvjp(
        lambda x, w: (product(x, w), (x, w)),
        lambda saved, g: ((saved[1] @ g.T).T, (g.T @ saved[0]).T),
    )

    @jax.custom_jvp
    def transposed(x, w):
        return lax.dot_general(w, x, (((1,), (1,)), ((), ())))

    @transposed.defjvp
    def derivative(primals, tangents):
        (x, w), (tx, tw) = primals, tangents
        return transposed(x, w), w @ tx.T + tw @ x.T

    params = weights(a=(8, 12), b=(3, 4, 12))

    def apply(params, x):
        def layer(x, w):
            return transposed(x, w).sum(axis=0), None

        hidden = jnp.tanh(product(x, params["a"]))
        return jax.vmap(lambda w: jax.checkpoint(layer)(hidden, w)[0])(params["b"])

    return Case(apply, params, (inputs(5, 8),), targets=("a", "b"))


def model_that_differentiates_itself() -> Case:
    """An energy model: the output is the gradient of a scalar with respect to the input."""
    params = weights(w=(8, 12), v=(12,))

    def apply(params, x):
        def energy(x):
            return (jnp.tanh(x @ params["w"]) @ params["v"]).sum()

        return jax.grad(energy)(x)

    return Case(apply, params, (inputs(5, 8),), targets=("w",))


CASES = (
    plain_einsums,
    plain_attention,
    reshaped_transposed_scaled_and_sliced,
    reversed_expanded_and_broadcast,
    weight_on_the_left_of_the_product,
    ensemble_of_weights_by_vmap,
    one_weight_used_both_ways,
    fused_qkv_that_is_split,
    weights_that_are_concatenated,
    one_of_two_concatenated_weights,
    looked_up_by_one_hot,
    columns_and_rows_by_index,
    activation_with_a_custom_derivative,
    products_with_custom_derivatives,
    model_that_differentiates_itself,
)
