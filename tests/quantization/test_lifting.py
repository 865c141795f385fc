"""Quantised weights under `lift`: what the dense weights they stand for would compute."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.all import CASES
from golden.case import QUICK, error

import lora_jax as lora
from lora_jax import hub
from lora_jax.lifting import is_packed
from lora_jax.quantization import accept_quantized, quantize_array

FIXTURES = Path(__file__).parent.parent / "fixtures"


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def shaken(lifted):
    """Factors of LoRA with B away from zero, so that every gradient is more than zero."""
    rng = np.random.default_rng(0)
    return {
        site.path: {
            name: rng.normal(size=array.shape).astype(np.float32) / 10
            for name, array in site.arrays.items()
        }
        for site in lifted.sites
    }


def dequantized(params):
    """The dense weights, one by one and outside of any model."""
    dense = lambda leaf: leaf.dequantize() if is_packed(leaf) else leaf
    return jax.tree.map(dense, params, is_leaf=is_packed)


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("llama", "int8", {"scan": True, "remat": "full"}),
        ("gpt2", "int8", {"scan": False, "remat": "dots"}),
        ("bert", "int8", {"scan": True, "remat": "none"}),
        ("mixtral", "nf4", {"scan": True, "remat": "none"}),
        ("t5", "int8", {"scan": True, "remat": "none"}),
    ],
)
def test_outputs_and_gradients_are_those_of_the_dequantised_weights(name, kind, options):
    case = CASES[name]
    model = hub.load_model(
        FIXTURES / name, **options, quantize={"kind": kind, "block": 4}, **case.options
    )
    recorded = np.load(FIXTURES / name / "expected.npz")
    args, probe = [recorded[argument] for argument in case.arguments], recorded["probe"]
    lifted = lora.lift(
        model.apply, model.params, *args, targets=lora.ALL_LINEAR, method=lora.LoRA(2), strict=True
    )
    factors = shaken(lifted)

    def ours(factors):
        output = lifted(model.params, factors, *args)
        return (output * probe).sum(), output

    def reference(factors):
        output = model.apply(lifted.merge(dequantized(model.params), factors), *args)
        return (output * probe).sum(), output

    found, wanted = (
        jax.jit(jax.grad(f, has_aux=True), compiler_options=QUICK)(factors)
        for f in (ours, reference)
    )
    assert error(found[1], wanted[1]) < 1e-5
    for a, b in zip(jax.tree.leaves(found[0]), jax.tree.leaves(wanted[0]), strict=True):
        assert error(a, b) < 1e-4


def test_merging_gives_plain_weights_of_the_type_before_and_unmerging_the_dequantised():
    params = {"up": normal(0, 64, 8).astype(jnp.bfloat16), "down": normal(1, 64, 2)}
    packed = {name: quantize_array(leaf, "int8") for name, leaf in params.items()}
    lifted = lora.lift(
        lambda p, x: (x @ p["up"], x @ p["down"]),
        packed,
        normal(2, 3, 64),
        targets=("up",),
        method=lora.LoRA(2),
    )
    factors = shaken(lifted)
    merged = lifted.merge(packed, factors)
    delta = 8 * factors["up"]["a"] @ factors["up"]["b"]
    exact = packed["up"].dequantize(jnp.float32) + delta  # rounded to bfloat16 only once
    np.testing.assert_array_equal(merged["up"], exact.astype(jnp.bfloat16))
    np.testing.assert_array_equal(merged["down"], packed["down"].dequantize())
    assert {name: leaf.dtype for name, leaf in merged.items()} == {
        "up": "bfloat16",
        "down": "float32",
    }
    back = lifted.unmerge(merged, factors)
    assert error(back["up"].astype(jnp.float32), packed["up"].dequantize(jnp.float32)) < 0.01


def test_the_description_counts_and_shows_dense_shapes():
    params = {"up": quantize_array(normal(0, 64, 8)), "bias": jnp.ones(8)}
    lifted = lora.lift(
        lambda p, x: x @ p["up"] + p["bias"],
        params,
        normal(1, 3, 64),
        targets=("up",),
        method=lora.LoRA(2),
    )
    assert lifted.num_base_parameters == 64 * 8 + 8
    assert "64x8" in str(lifted)
    assert lifted.sites[0].shape == (64, 8)


def dora_by_hand(w, factors, scale):
    moved = w + scale * factors["a"] @ factors["b"]
    return factors["m"][..., None, :] * moved / jnp.linalg.norm(moved, axis=-2, keepdims=True)


def test_dora_takes_its_norms_from_the_dequantised_layers():
    stacked = {"w": quantize_array(normal(0, 3, 64, 8), "int8")}

    def model(params, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w) @ w.T, None), x, params["w"])[0]

    x = normal(1, 2, 64)
    lifted = lora.lift(model, stacked, x, targets=("w",), method=lora.DoRA(2, 4), strict=True)
    factors = lifted.init(jax.random.key(0), stacked)
    dense = dequantized(stacked)
    np.testing.assert_allclose(factors["w"]["m"], jnp.linalg.norm(dense["w"], axis=1), rtol=1e-5)
    factors = {"w": factors["w"] | {"b": normal(2, 3, 2, 8) / 10}}
    by_hand = {"w": dora_by_hand(dense["w"], factors["w"], 2.0)}
    assert error(jax.jit(lifted)(stacked, factors, x), model(by_hand, x)) < 1e-5


VIEWS = {
    "cast": lambda w, x: x @ w.astype(jnp.bfloat16).astype(jnp.float32)[0],
    "transposed": lambda w, x: x @ jnp.transpose(w, (0, 2, 1))[1].T,
    "scaled": lambda w, x: x @ (w[0] * 2.0),
    "reshaped": lambda w, x: jnp.einsum("bi,ihd->bhd", x, w[2].reshape(64, 2, 4)),
    "one_axis_for_layers": lambda w, x: x @ w.reshape(1, 3, 64, 8)[0, 2],
    "sliced": lambda w, x: x @ w[1, :, 2:6],
    "fused": lambda w, x: x @ jnp.concatenate([w[0], w[1]], axis=-1),
    "split": lambda w, x: x @ jnp.split(w[0], 2, axis=-1)[1],
    "picked": lambda w, x: jnp.einsum("bi,bio->bo", x, w[jnp.array([2, 0, 1])]),
    "traced_index": lambda w, x: jax.lax.fori_loop(
        0, 3, lambda i, y: y + x @ w[i], jnp.zeros((3, 8))
    ),
    "scanned_transpose": lambda w, x: jax.lax.scan(
        lambda y, w: (y + x @ w.T, None), jnp.zeros((3, 8)), jnp.swapaxes(w, 1, 2)
    )[0],
    "branched": lambda w, x: jax.lax.cond(x[0, 0] > 0, lambda w: x @ w[0], lambda w: x @ w[1], w),
    "summed": lambda w, x: x * w.sum(),
}
DENSE = {"scanned_transpose": "scan", "summed": "reduce_sum"}  # where the whole must be dense


MOVED = ("cast", "one_axis_for_layers", "picked", "traced_index")  # differ by what is stored


@pytest.mark.parametrize(
    ("name", "kind"), [(name, "nf4") for name in VIEWS] + [(name, "int8") for name in MOVED]
)
def test_any_view_computes_what_it_does_on_the_dense_weight(name, kind):
    w, x = quantize_array(normal(0, 3, 64, 8), kind), normal(1, 3, 64)
    model = lambda params, x: VIEWS[name](params["w"], x)
    run = jax.jit(accept_quantized(model), compiler_options=QUICK)
    if name in DENSE:
        with pytest.warns(UserWarning, match=f"'w' reaches '{DENSE[name]}'"):
            found = run({"w": w}, x)
    else:
        found = run({"w": w}, x)
    assert error(found, model({"w": w.dequantize()}, x)) < 1e-6


def test_a_frozen_weight_is_not_kept_dense_for_the_backward_pass():
    params = {name: quantize_array(normal(0, 64, 64)) for name in ("up", "down")}
    model = lambda params, x: jnp.tanh(x @ params["up"]) @ params["down"]
    x = normal(1, 2, 64)
    lifted = lora.lift(model, params, x, targets=("up",), method=lora.LoRA(2))
    factors = jax.eval_shape(lifted.init, jax.random.key(0), params)
    pullback = jax.eval_shape(
        lambda factors, x: jax.vjp(lambda factors, x: lifted(params, factors, x), factors, x)[1],
        factors,
        x,
    )
    kept = [leaf for leaf in jax.tree.leaves(pullback) if getattr(leaf, "shape", ()) == (64, 64)]
    assert not kept


def test_the_function_of_a_quantised_model_keeps_its_attributes():
    model = hub.load_model(FIXTURES / "llama", quantize={"kind": "int8", "block": 8})
    plain = hub.load_model(FIXTURES / "llama")
    assert model.apply.config == plain.apply.config
    with pytest.raises(AttributeError):
        _ = model.apply.no_such_thing
