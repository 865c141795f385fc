"""Fused attention computes what the plain formula does, and is chosen only where it can be."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.case import QUICK, error

import lora_jax as lora
from lora_jax.models.attention import attention
from lora_jax.models.cache import visible

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.mark.parametrize("name", ["gpt2", "mistral"])
def test_packed_logits_and_gradients_are_those_of_the_plain_formula(name):
    ids = np.random.default_rng(0).integers(5, 40, (2, 12)).astype(np.int32)
    segments = np.repeat([[1, 2, 0]], 2, axis=0).repeat([5, 4, 3], axis=1).astype(np.int32)

    def logits_and_gradient(implementation):
        model = lora.hub.load_model(FIXTURES / name, attention=implementation)
        lifted = lora.lift(model.apply, model.params, ids, targets=lora.ALL_LINEAR, strict=True)
        factors = lifted.init(jax.random.key(0), model.params)
        # Not one number for all: what is the same along the hidden state, a norm takes away.
        noise = lambda x: 0.1 * jax.random.normal(jax.random.key(1), x.shape, x.dtype)
        factors = jax.tree.map(lambda x: x + noise(x), factors)

        def loss(factors):
            logits = lifted(model.params, factors, ids, segments=segments)
            real = jnp.where(segments[..., None] != 0, logits, 0)
            return jnp.square(real).mean(), real

        gradient, logits = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)(factors)
        return [logits, *jax.tree.leaves(gradient)]

    for found, wanted in zip(*map(logits_and_gradient, ("xla", "plain")), strict=True):
        assert error(np.asarray(found), np.asarray(wanted)) < 1e-4


def shapes(dtype="bfloat16", dim=64):
    q = jax.ShapeDtypeStruct((2, 16, 4, dim), dtype)
    kv = jax.ShapeDtypeStruct((2, 16, 2, dim), dtype)
    return q, kv, kv


def run(implementation, q, k, v, **named):
    order = jnp.broadcast_to(jnp.arange(q.shape[1]), q.shape[:2])
    return attention(
        q, k, v, visible(order, order), q.dtype.name, implementation=implementation, **named
    )


@pytest.mark.parametrize(
    ("backend", "named", "sizes", "wanted"),
    [
        ("gpu", {}, {}, "cudnn"),
        ("cpu", {}, {}, "plain"),
        ("tpu", {}, {}, "plain"),
        ("gpu", {"softcap": 30.0}, {}, "plain"),
        ("gpu", {}, {"dim": 256}, "plain"),
        ("gpu", {}, {"dtype": "float32"}, "plain"),
    ],
)
def test_auto_takes_cudnn_where_it_can(monkeypatch, backend, named, sizes, wanted):
    taken = []

    def fused(q, k, v, *, implementation, **named):
        taken.append(implementation)
        return q

    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax.nn, "dot_product_attention", fused)
    jax.eval_shape(functools.partial(run, "auto", **named), *shapes(**sizes))
    assert taken == ([] if wanted == "plain" else [wanted])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="cannot squeeze scores; 'auto' can"):
        jax.eval_shape(functools.partial(run, "cudnn", softcap=30.0), *shapes())
    with pytest.raises(ValueError, match="known: auto, plain, xla, cudnn"):
        lora.hub.load_model(FIXTURES / "gpt2", attention="flash")
