"""Methods on a quantised base: as on the dense weights it stands for, or refused in a sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.case import QUICK

import lora_jax as lora

PARAMS = {"w": jax.random.normal(jax.random.key(0), (2, 64, 32)) / 8}
X = jax.random.normal(jax.random.key(1), (5, 64))

METHODS = {
    "LoRA": lora.LoRA(rank=2),
    "DoRA": lora.DoRA(rank=2),
    "VeRA": lora.VeRA(rank=4),
    "IA3": lora.IA3(),
    "LoHa": lora.LoHa(rank=2),
    "LoKr": lora.LoKr(rank=2),
    "AdaLoRA": lora.AdaLoRA(rank=2),
    "MiSS": lora.MiSS(rank=4),
    "GraLoRA": lora.GraLoRA(rank=2),
    "Full": lora.Full(),
    "Orthogonal": lora.Orthogonal(rank=2),
}


def model(params, x):
    return sum(jnp.tanh(x @ params["w"][layer]) for layer in range(2))


def quantised():
    return lora.quantize(PARAMS, "int8", block=16, keep=())


@pytest.mark.parametrize("name", METHODS)
def test_it_computes_what_it_does_on_the_dequantised_weight(name):
    base = quantised()
    lifted = lora.lift(model, base, X, method=METHODS[name], targets="w")
    dense = {"w": base["w"].dequantize()}
    factors = jax.tree.map(lambda leaf: leaf + 0.1, lifted.init(jax.random.key(2), base))
    run = jax.jit(lifted, compiler_options=QUICK)
    wanted = model(lifted.merge(dense, factors), X)
    np.testing.assert_allclose(run(base, factors, X), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lora.HiRA(rank=2), "HiRA multiplies the entries of 'w', which is quantised: .*keep="),
        (lora.PiSSA(rank=2), "starts from the exact weight, and 'w' is quantised"),
        (lora.OLoRA(rank=2), "starts from the exact weight, and 'w' is quantised"),
    ],
)
def test_what_needs_the_exact_weight_is_refused(method, message):
    base = quantised()
    with pytest.raises(ValueError, match=message):
        lora.lift(model, base, X, method=method, targets="w").init(jax.random.key(0), base)
