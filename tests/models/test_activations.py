"""Activations and their written-out derivatives, against those of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax.models.activations import ACTIVATIONS

REFERENCES = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_values_and_slopes_are_those_of_jax(name: str) -> None:
    with jax.enable_x64():
        x = jnp.asarray(np.concatenate([np.linspace(-12, 12, 482), [0.5, 1.0, -60.0, 60.0]]))
        for take in (lambda f: f, lambda f: jax.vmap(jax.grad(f))):
            found, wanted = take(ACTIVATIONS[name])(x), take(REFERENCES[name])(x)
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", REFERENCES)
def test_in_16_bits_they_are_the_rounded_ones(name: str) -> None:
    x = jnp.linspace(-6, 6, 241).astype(jnp.bfloat16)
    slope = lambda f: jax.vmap(jax.grad(f))
    for take in (lambda f: f, slope):
        found = take(ACTIVATIONS[name])(x)
        assert found.dtype == jnp.bfloat16
        wanted = take(ACTIVATIONS[name])(x.astype(jnp.float32))
        np.testing.assert_allclose(found.astype(jnp.float32), wanted, rtol=2**-8, atol=1e-6)
