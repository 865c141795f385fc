"""Fused: a part of a weight that a method adapts as a whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora
from lora_jax.methods import Fused

SIZE, PARTS = 8, 3
METHODS = {
    "GraLoRA": lora.GraLoRA(rank=4, k=2, hybrid=2),
    "LoKr": lora.LoKr(rank=2),
    "LoHa": lora.LoHa(rank=2),
    "LoRA of each layer": lora.LoRA(ranks=(1, 2)),
}


def each_layer(params, x):
    """The parts beside each other, layer by layer."""

    def layer(x, kernels):
        q, k, v = (x @ kernels[name] for name in "qkv")
        return jnp.tanh(q + k * v), jnp.concatenate([q, k, v], axis=-1)

    return jax.lax.scan(layer, x, params)[1]


def in_one(params, x):
    def layer(x, kernel):
        qkv = x @ kernel
        q, k, v = jnp.split(qkv, PARTS, axis=-1)
        return jnp.tanh(q + k * v), qkv

    return jax.lax.scan(layer, x, params["qkv"])[1]


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_parts_together_are_what_the_method_makes_of_the_whole(method):
    kernel = jax.random.normal(jax.random.key(0), (2, SIZE, PARTS * SIZE))
    x = jax.random.normal(jax.random.key(1), (5, SIZE))
    whole = lora.lift(in_one, {"qkv": kernel}, x, targets="qkv", method=method)
    arrays = whole.init(jax.random.key(2), {"qkv": kernel})["qkv"]
    arrays = jax.tree.map(lambda a: a + 0.3 * jnp.cos(jnp.arange(a.size)).reshape(a.shape), arrays)

    params = dict(zip("qkv", jnp.split(kernel, PARTS, axis=-1), strict=True))
    targets = {name: Fused(method, i, PARTS) for i, name in enumerate("qkv")}
    parts = lora.lift(each_layer, params, x, targets=targets, strict=True)
    shapes = jax.eval_shape(parts.init, jax.random.key(2), params)
    for own in shapes.values():
        assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, arrays)
    factors = dict.fromkeys("qkv", arrays)
    found = jax.jit(parts)(params, factors, x)
    wanted = jax.jit(whole)({"qkv": kernel}, {"qkv": arrays}, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    merged = parts.merge(params, factors)
    np.testing.assert_allclose(
        jnp.concatenate([merged[name] for name in "qkv"], axis=-1),
        whole.merge({"qkv": kernel}, {"qkv": arrays})["qkv"],
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("part", [-1, 3])
def test_a_part_that_is_not_there_is_refused(part):
    with pytest.raises(ValueError, match=r"none of 3 parts"):
        Fused(lora.LoKr(rank=2), part, 3)


def test_what_is_no_method_is_refused():
    with pytest.raises(ValueError, match="must be a method, not 4"):
        Fused(4, 0, 3)
