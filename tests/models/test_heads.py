"""Pooling and classification against formulas written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import models


def hidden_and_mask():
    hidden = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    return jnp.asarray(hidden), np.array(
        [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], np.int32
    )


def test_mean_pooling_averages_the_real_tokens():
    hidden, mask = hidden_and_mask()
    pooled = models.pool(hidden, mask, "mean")
    np.testing.assert_allclose(pooled[0], hidden[0].mean(0), rtol=1e-6)
    np.testing.assert_allclose(pooled[1], hidden[1, :2].mean(0), rtol=1e-6)
    assert not pooled[2].any()


def test_cls_pooling_takes_the_first_token():
    hidden, mask = hidden_and_mask()
    assert np.array_equal(models.pool(hidden, mask, "cls"), hidden[:, 0])


def test_pooling_sums_in_float32():
    # 1 + 2**-9 is not a bfloat16, so a bfloat16 mean of these would be 1 or 1 + 2**-7.
    hidden = jnp.array([[[1.0], [1.0], [1.0], [1 + 2**-7]]], jnp.bfloat16)
    pooled = models.pool(hidden, jnp.ones((1, 4), jnp.int32), "mean")
    assert pooled.dtype == jnp.float32
    assert float(pooled[0, 0]) == 1 + 2**-9


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="unknown pooling 'max'; known: mean, cls"):
        models.pool(*hidden_and_mask(), "max")


def test_normalized_vectors_have_length_one_and_zero_stays_zero():
    lengths = np.linalg.norm(models.normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]])), axis=1)
    np.testing.assert_allclose(lengths, [1, 0], rtol=1e-6)


@pytest.mark.parametrize("dense", [False, True])
def test_logits_are_an_affine_map_after_an_optional_tanh_layer(dense):
    head = models.init_classifier(jax.random.key(0), 4, 3, dense=dense)
    head["bias"] = jnp.array([0.1, 0.2, 0.3])
    x = jax.random.normal(jax.random.key(1), (5, 4))
    inner = np.asarray(x)
    if dense:
        inner = np.tanh(inner @ np.asarray(head["dense"]["kernel"]) + head["dense"]["bias"])
    wanted = inner @ np.asarray(head["kernel"]) + head["bias"]
    np.testing.assert_allclose(models.classify(head, x), wanted, rtol=1e-5, atol=1e-7)


def test_logits_of_bfloat16_states_are_float32():
    head = models.init_classifier(jax.random.key(0), 4, 3)
    assert models.classify(head, jnp.ones((2, 4), jnp.bfloat16)).dtype == jnp.float32
