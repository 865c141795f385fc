"""Adapters side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora
from lora_jax.analysis.compare import compare, describe_adapter, shared_paths

X = jnp.ones((2, 12))
PARAMS = {"up": jnp.ones((12, 16)), "down": jnp.ones((16, 12))}


def model(params, x):
    return jax.nn.relu(x @ params["up"]) @ params["down"]


def adapter(name, seed, method, targets, params=PARAMS, x=X):
    lifted = lora.lift(model, params, x, method=method, targets=targets)
    rng = np.random.default_rng(seed)
    noise = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)
    factors = jax.tree.map(noise, {site.path: dict(site.arrays) for site in lifted.sites})
    return describe_adapter(name, lifted, params, factors)


def test_only_what_both_adapt_is_compared_whatever_the_methods():
    one = adapter("one", 0, lora.LoRA(2), ("up", "down"))
    other = adapter("other", 1, lora.DoRA(3), ("down",))
    assert shared_paths([one, other]) == ["down"]
    found = compare(one, other, "in")
    assert {path: phi.shape for path, phi in found.items()} == {"down": (1, 2, 12)}
    itself = compare(one, one, "out")["up"]
    np.testing.assert_allclose(np.diagonal(itself[0]), 1, atol=1e-5)


def test_adapters_with_nothing_in_common_are_named():
    one, other = adapter("one", 0, lora.LoRA(2), "up"), adapter("two", 1, lora.LoRA(2), "down")
    with pytest.raises(ValueError, match="one: up; two: down"):
        compare(one, other, "a")


def test_adapters_for_different_bases_are_refused():
    small = {"up": jnp.ones((12, 8)), "down": jnp.ones((8, 12))}
    one = adapter("one", 0, lora.LoRA(2), "up")
    with pytest.raises(ValueError, match=r"\(12, 16\) in one and \(12, 8\) in small"):
        compare(one, adapter("small", 0, lora.LoRA(2), "up", small), "in")
