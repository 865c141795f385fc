"""Training arrays whole: heads, norms and biases beside low-rank updates of the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora


def key(seed):
    return jax.random.key(seed)


@pytest.fixture
def params():
    layers = {
        "q_proj": {"kernel": jax.random.normal(key(0), (3, 6, 6)), "bias": jnp.ones((3, 6))},
        "attention_norm": {"scale": jnp.ones((3, 6)), "bias": jnp.zeros((3, 6))},
    }
    head = {"kernel": jax.random.normal(key(1), (6, 4)), "bias": jnp.zeros(4)}
    return {"layers": layers, "ln_f": {"scale": jnp.ones(6)}, "score": head}


@pytest.fixture
def x():
    return jax.random.normal(key(2), (5, 6))


def model(params, x):
    def layer(x, p):
        y = x * p["attention_norm"]["scale"] + p["attention_norm"]["bias"]
        return x + jnp.tanh(y @ p["q_proj"]["kernel"] + p["q_proj"]["bias"]), None

    x = jax.lax.scan(layer, x, params["layers"])[0] * params["ln_f"]["scale"]
    return x @ params["score"]["kernel"] + params["score"]["bias"]


def paths(lifted):
    return [site.path for site in lifted.sites]


def moved(lifted, params):
    factors = lifted.init(key(3), params)
    return jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(key(leaf.size), leaf.shape), factors
    )


@pytest.mark.filterwarnings("error")  # nothing is lost by using W + ΔW, so nothing is announced
def test_it_equals_training_the_arrays_themselves(params, x):
    targets = {lora.BIASES: None, lora.NORMS: None, "score": None}
    lifted = lora.lift(model, params, x, method=lora.Full(), targets=targets, strict=True)
    factors = moved(lifted, params)
    merged = lifted.merge(params, factors)
    assert not np.allclose(merged["layers"]["q_proj"]["bias"], 1)
    np.testing.assert_allclose(lifted(params, factors, x), model(merged, x), rtol=1e-5, atol=1e-6)

    found = jax.grad(lambda f: jnp.sin(lifted(params, f, x)).sum())(factors)
    wanted = jax.grad(lambda p: jnp.sin(model(p, x)).sum())(merged)
    for path, arrays in found.items():
        *modules, name = path.split("/")
        array = wanted
        for part in (*modules, name):
            array = array[part]
        np.testing.assert_allclose(arrays["d"], array, rtol=1e-4, atol=1e-5)


def test_it_starts_at_the_base_and_leaves_it_as_it_is(params, x):
    lifted = lora.lift(model, params, x, method=lora.Full(), targets="score")
    factors = lifted.init(key(0), params)
    np.testing.assert_array_equal(lifted(params, factors, x), model(params, x))


def test_the_name_of_a_module_means_all_its_arrays(params, x):
    lifted = lora.lift(model, params, x, method=lora.Full(), targets="attention_norm")
    assert paths(lifted) == ["layers/attention_norm/bias", "layers/attention_norm/scale"]


def test_biases_and_norms_are_found_by_their_names(params, x):
    def found(targets, **keywords):
        return paths(lora.lift(model, params, x, method=lora.Full(), targets=targets, **keywords))

    biases = ["layers/attention_norm/bias", "layers/q_proj/bias", "score/bias"]
    norms = ["layers/attention_norm/bias", "layers/attention_norm/scale", "ln_f/scale"]
    assert found(lora.BIASES) == biases
    assert found(lora.NORMS) == norms
    assert found(lora.BIASES, exclude=lora.NORMS) == biases[1:]
    assert found(".*/(scale|bias)", exclude="score") == sorted({*biases[:2], *norms})


def test_it_stands_beside_low_rank_updates(params, x):
    targets = {"q_proj": None, "score": lora.Full()}
    lifted = lora.lift(model, params, x, method=lora.LoRA(rank=2), targets=targets)
    assert {site.path: str(site.method) for site in lifted.sites} == {
        "layers/q_proj/kernel": "LoRA(rank=2, alpha=16)",
        "score/bias": "Full",
        "score/kernel": "Full",
    }


def test_other_methods_are_not_put_on_biases_and_norms(params, x):
    with pytest.raises(ValueError, match="'all-biases' is for Full, BitFit or LayerNormTuning"):
        lora.lift(model, params, x, targets=lora.BIASES)
    with pytest.raises(ValueError, match="means 'layers/q_proj/bias', which is no weight that is"):
        lora.lift(model, params, x, targets="q_proj/bias")
