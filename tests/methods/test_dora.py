"""DoRA against its definition (arXiv 2402.09353, equation 5)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora

METHOD = lora.DoRA(rank=3, alpha=6)


def key(seed):
    return jax.random.key(seed)


def perturbed(factors):
    noise = lambda x: x + 0.3 * jax.random.normal(key(x.size), x.shape)
    return jax.tree.map(noise, factors)


@pytest.fixture
def params():
    return {"w": jax.random.normal(key(1), (8, 6))}


@pytest.fixture
def x():
    return jax.random.normal(key(2), (5, 8))


def matmul(params, x):
    return x @ params["w"]


def dense_weight(w, arrays):
    """Equation 5: the rescaled columns of W + ΔW."""
    v = w + 2.0 * arrays["a"] @ arrays["b"]
    return arrays["m"] * v / jnp.linalg.norm(v, axis=0)


def test_it_starts_as_the_base_model(params, x):
    lifted = lora.lift(matmul, params, x, method=METHOD, targets="w")
    factors = lifted.init(key(0), params)
    np.testing.assert_allclose(lifted(params, factors, x), matmul(params, x), rtol=1e-5)
    np.testing.assert_allclose(factors["w"]["m"], jnp.linalg.norm(params["w"], axis=0), rtol=1e-6)


def test_it_equals_its_definition(params, x):
    lifted = lora.lift(matmul, params, x, method=METHOD, targets="w")
    factors = perturbed(lifted.init(key(0), params))
    expected = x @ dense_weight(params["w"], factors["w"])
    np.testing.assert_allclose(lifted(params, factors, x), expected, rtol=1e-5, atol=1e-6)
    merged = lifted.merge(params, factors)["w"]
    np.testing.assert_allclose(merged, dense_weight(params["w"], factors["w"]), rtol=1e-5)


def test_the_gradient_of_the_norm_is_stopped(params, x):
    lifted = lora.lift(matmul, params, x, method=METHOD, targets="w")
    factors = perturbed(lifted.init(key(0), params))
    v = params["w"] + 2.0 * factors["w"]["a"] @ factors["w"]["b"]
    norm = jnp.linalg.norm(v, axis=0)

    def by_hand(arrays):
        v = params["w"] + 2.0 * arrays["a"] @ arrays["b"]
        return jnp.sin(x @ (arrays["m"] * v / norm)).sum()

    found = jax.grad(lambda f: jnp.sin(lifted(params, f, x)).sum())(factors)["w"]
    for name, expected in jax.grad(by_hand)(factors["w"]).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)


def test_the_norm_is_the_whole_weights_where_the_model_slices_and_scales_it(params, x):
    """A gain of each view alone would divide by the norm of a part, or of a multiple, of W."""

    def model(params, x):
        heads = (2.0 * params["w"]).reshape(8, 3, 2).transpose(1, 0, 2)[1:]
        return jnp.einsum("bd,hdk->bhk", x, heads) + (x[:, :4] @ params["w"][:4, :2])[:, None]

    lifted = lora.lift(model, params, x, method=METHOD, targets="w", strict=True)
    factors = perturbed(lifted.init(key(0), params))
    expected = model({"w": dense_weight(params["w"], factors["w"])}, x)
    np.testing.assert_allclose(lifted(params, factors, x), expected, rtol=1e-4, atol=1e-5)


def test_each_stacked_layer_has_its_own_norm(x):
    params = {"w": jax.random.normal(key(3), (4, 8, 8)) * jnp.arange(1.0, 5.0)[:, None, None]}

    def model(params, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["w"])[0]

    lifted = lora.lift(model, params, x, method=METHOD, targets="w", strict=True)
    factors = perturbed(lifted.init(key(0), params))
    dense = jnp.stack(
        [dense_weight(w, f) for w, f in zip(params["w"], lora.unstack(factors["w"]), strict=True)]
    )
    expected = model({"w": dense}, x)
    np.testing.assert_allclose(lifted(params, factors, x), expected, rtol=1e-4, atol=1e-5)


def test_a_merged_dora_is_not_unmerged(params, x):
    lifted = lora.lift(matmul, params, x, method=METHOD, targets="w")
    factors = lifted.init(key(0), params)
    with pytest.raises(ValueError, match="needs the base weight of 'w'"):
        lifted.unmerge(lifted.merge(params, factors), factors)
