"""Softmax and normalisation with derivatives of their own, and what a layer keeps by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import models
from lora_jax.models.normal import divide_by_size, softmax, standardize


def _plain_standardize(x: jax.Array, eps: float) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)


def _plain_division(x: jax.Array, eps: float) -> jax.Array:
    return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + eps)


PAIRS = {
    "softmax": (softmax, lambda x: jax.nn.softmax(x, axis=-1)),
    "standardize": (lambda x: standardize(x, 1e-5), lambda x: _plain_standardize(x, 1e-5)),
    "divide_by_size": (lambda x: divide_by_size(x, 1e-5), lambda x: _plain_division(x, 1e-5)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_both_derivatives_are_those_of_the_plain_form(name: str) -> None:
    ours, plain = PAIRS[name]
    with jax.enable_x64():
        x, moved = jax.random.normal(jax.random.key(0), (2, 3, 4, 7), jnp.float64)
        x = 3 * x + 5  # a mean that is not small beside the deviation
        np.testing.assert_allclose(ours(x), plain(x), rtol=1e-12)
        found, wanted = (jax.jvp(f, (x,), (moved,))[1] for f in (ours, plain))
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
        found, wanted = (jax.vjp(f, x)[1](moved)[0] for f in (ours, plain))
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_a_mean_far_from_zero_costs_the_gradient_no_precision() -> None:
    x = np.asarray(jax.random.normal(jax.random.key(0), (64, 256))) + 100
    moved = np.asarray(jax.random.normal(jax.random.key(1), x.shape))
    with jax.enable_x64():
        pull = jax.vjp(lambda x: _plain_standardize(x, 1e-5), jnp.asarray(x, jnp.float64))[1]
        exact = np.asarray(pull(jnp.asarray(moved, jnp.float64))[0])
    found, plain = (
        np.abs(np.asarray(jax.vjp(f, jnp.asarray(x))[1](jnp.asarray(moved))[0]) - exact).max()
        for f in (lambda x: standardize(x, 1e-5), lambda x: _plain_standardize(x, 1e-5))
    )
    assert found < 4 * plain  # both far below what a mean of 100 could cost: 1e-5 of each term


def test_masked_scores_have_no_weight_and_no_gradient() -> None:
    scores = jnp.array([[1.0, 2.0, jnp.finfo(jnp.float32).min]])
    weights, pull = jax.vjp(softmax, scores)
    assert weights[0, 2] == 0
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
    assert pull(jnp.array([[1.0, -3.0, 7.0]]))[0][0, 2] == 0


def test_a_row_that_is_masked_as_a_whole_is_free_of_nan() -> None:
    weights, pull = jax.vjp(softmax, jnp.full((1, 4), jnp.finfo(jnp.float32).min))
    np.testing.assert_allclose(weights, 0.25, rtol=1e-6)
    assert np.isfinite(pull(jnp.ones((1, 4)))[0]).all()


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_a_layer_keeps_one_array_for_each_of_its_operations(activation: str) -> None:
    """Per layer: 4 times the hidden state for the activation, 1 for each norm, 1 for the input of
    the projections, 3 for queries, keys and values, 1 for the result of attention, and the scores.
    """
    batch, length, dim, heads = 4, 64, 64, 2
    state, scores = batch * length * dim * 4, batch * heads * length * length * 4
    ids = jax.ShapeDtypeStruct((batch, length), "int32")

    def temporary(layers: int) -> int:
        config = models.BertConfig(
            vocab_size=64,
            dim=dim,
            layers=layers,
            heads=heads,
            ff_dim=4 * dim,
            scan=False,
            activation=activation,
        )
        model = models.build(config)
        # With respect to the embeddings: no weight of a layer trains.
        table = model.shapes["embed"]

        def loss(table, params, ids, mask):
            return model.apply({**params, "embed": table}, ids, mask).sum()

        program = jax.jit(jax.grad(loss)).lower(table, model.shapes, ids, ids).compile()
        return program.memory_analysis().temp_size_in_bytes

    kept = (temporary(4) - temporary(2)) / 2
    weights_of_a_layer = 12 * dim * dim * 4  # sliced out of their stack
    assert kept - weights_of_a_layer < 11 * state + scores
