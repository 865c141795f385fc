"""Every attention computes what the plain formula does, and is chosen only where it can be."""

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


@pytest.mark.parametrize("implementation", ["xla", "blocks"])
@pytest.mark.parametrize("name", ["gpt2", "mistral"])
def test_packed_logits_and_gradients_are_those_of_the_plain_formula(name, implementation):
    ids = np.random.default_rng(0).integers(5, 40, (2, 12)).astype(np.int32)
    segments = np.repeat([[1, 2, 0]], 2, axis=0).repeat([5, 4, 3], axis=1).astype(np.int32)

    def logits_and_gradient(attention):
        model = lora.hub.load_model(FIXTURES / name, attention=attention)
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

    for found, wanted in zip(*map(logits_and_gradient, (implementation, "plain")), strict=True):
        assert error(np.asarray(found), np.asarray(wanted)) < 1e-4


def shapes(dtype="bfloat16", dim=64, length=16):
    q = jax.ShapeDtypeStruct((2, length, 4, dim), dtype)
    kv = jax.ShapeDtypeStruct((2, length, 2, dim), dtype)
    return q, kv, kv


def run(implementation, q, k, v, **named):
    order = jnp.broadcast_to(jnp.arange(q.shape[1]), q.shape[:2])
    return attention(
        q, k, v, visible(order, order), q.dtype.name, implementation=implementation, **named
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("texts", [1, 2])
@pytest.mark.parametrize("named", [{}, {"softcap": 3.0, "scale": 0.5}, {"bias": 1}, {"bias": 2}])
def test_blocks_are_the_plain_formula_with_caps_and_biases(dtype, texts, named):
    keys = jax.random.split(jax.random.key(0), 4)
    draw = lambda key, *shape: jax.random.normal(key, shape, dtype)
    q, k, v = (draw(keys[i], texts, 16, heads, 8) for i, heads in enumerate((4, 2, 2)))
    if "bias" in named:
        named = {"bias": draw(keys[3], min(named["bias"], texts), 4, 16, 16)}

    def outputs_and_gradients(implementation):
        def total(q, k, v, named):
            out = run(implementation, q, k, v, **named)
            return jnp.square(out.astype(jnp.float32)).sum(), out

        arrays = {name: x for name, x in named.items() if name == "bias"}
        fixed = {name: x for name, x in named.items() if name != "bias"}
        of_arrays = lambda q, k, v, arrays: total(q, k, v, {**fixed, **arrays})
        gradient = jax.grad(of_arrays, argnums=(0, 1, 2, 3), has_aux=True)
        return jax.tree.leaves(jax.jit(gradient, compiler_options=QUICK)(q, k, v, arrays))

    for found, wanted in zip(*map(outputs_and_gradients, ("blocks", "plain")), strict=True):
        assert found.dtype == wanted.dtype
        limit = 1e-5 if dtype == "float32" else 2e-2
        assert error(np.asarray(found, np.float32), np.asarray(wanted, np.float32)) < limit


def test_blocks_hold_no_scores_of_all_heads():
    q, k, v = shapes("float32")
    allowed = jax.ShapeDtypeStruct((2, 1, 16, 16), bool)

    def loss(q, k, v, allowed):
        return attention(q, k, v, allowed, "float32", implementation="blocks").sum()

    text = str(jax.make_jaxpr(jax.grad(loss))(q, k, v, allowed))
    assert "f32[2,16,16]" in text  # two heads of queries that share one of keys
    assert "f32[2,2,2,16,16]" not in text
    assert "f32[2,2,16,16]" not in text


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


@pytest.mark.parametrize(("length", "loops"), [(511, 0), (512, 1)])
def test_auto_takes_blocks_for_long_texts_on_a_cpu(monkeypatch, length, loops):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    program = jax.make_jaxpr(functools.partial(run, "auto"))(*shapes(length=length))
    assert sum(eqn.primitive.name == "scan" for eqn in program.eqns) == loops


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="cannot squeeze scores; 'auto' can"):
        jax.eval_shape(functools.partial(run, "cudnn", softcap=30.0), *shapes())
    with pytest.raises(ValueError, match="known: auto, plain, blocks, xla, cudnn"):
        lora.hub.load_model(FIXTURES / "gpt2", attention="flash")
