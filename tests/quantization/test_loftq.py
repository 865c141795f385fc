"""LoftQ against its closed form, and that it is nearer to W than quantising alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora
from lora_jax.quantization import quantize_array

KEY = jax.random.key(0)
PARAMS = {
    "layers": 0.1 * jax.random.normal(jax.random.key(1), (2, 64, 64)),
    "bias": jnp.zeros(64),
}
X = jax.random.normal(jax.random.key(2), (3, 64))


def model(params, x):
    layer = lambda x, w: (x + jnp.tanh(x @ w), None)
    return jax.lax.scan(layer, x, params["layers"])[0] + params["bias"]


def lift(method, targets="layers"):
    return lora.lift(model, PARAMS, X, method=method, targets=targets)


LIFTED = lift(lora.LoRA(8, 24.0))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_factors_start_at_the_leading_part_of_what_quantising_lost(kind):
    quantized, factors = lora.loftq(LIFTED, PARAMS, kind)
    base = quantize_array(PARAMS["layers"], kind)
    lost = np.asarray(PARAMS["layers"] - base.dequantize())
    u, s, vt = np.linalg.svd(lost)
    wanted = (u[..., :8] * s[:, None, :8]) @ vt[:, :8]
    a, b = factors["layers"]["a"], factors["layers"]["b"]
    np.testing.assert_allclose(3.0 * a @ b, wanted, atol=1e-5)
    np.testing.assert_array_equal(quantized["layers"].dequantize(), base.dequantize())
    np.testing.assert_array_equal(quantized["bias"], PARAMS["bias"])
    # The change moves what is left, never what was there: PARAMS are as they were.
    left = np.linalg.norm(LIFTED.merge(quantized, factors)["layers"] - PARAMS["layers"])
    assert left < 0.9 * np.linalg.norm(lost)


def test_more_iterations_come_nearer_to_the_weight():
    def left(iterations):
        quantized, factors = lora.loftq(LIFTED, PARAMS, "nf4", iterations=iterations)
        return np.linalg.norm(LIFTED.merge(quantized, factors)["layers"] - PARAMS["layers"])

    assert left(4) < left(1)


def test_what_loftq_cannot_start_is_refused():
    with pytest.raises(ValueError, match="iterations must be at least 1, not 0"):
        lora.loftq(LIFTED, PARAMS, iterations=0)
    with pytest.raises(ValueError, match=r"LoftQ is a start of plain LoRA.*PiSSA"):
        lora.loftq(lift(lora.PiSSA(8)), PARAMS)
    with pytest.raises(ValueError, match=r"nf2"):
        lora.loftq(LIFTED, PARAMS, "nf2")
    with pytest.raises(ValueError, match="already quantised"):
        lora.loftq(LIFTED, lora.quantize(PARAMS))
    more = PARAMS | {"head": jnp.ones((64, 64))}
    f = lambda p, x: model(p, x) @ p["head"]
    lifted = lora.lift(f, more, X, method=lora.LoRA(8), targets=("layers", "head"))
    with pytest.raises(ValueError, match="'head' stays exact"):
        lora.loftq(lifted, more, keep=("head",))
