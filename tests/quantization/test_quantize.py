"""Which weights of a model are quantised, and what is refused."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora
from lora_jax import models
from lora_jax.lifting import is_packed, path_name
from lora_jax.models.bert import BertConfig
from lora_jax.models.decoder import DecoderConfig
from lora_jax.models.gpt2 import GPT2Config
from lora_jax.quantization import Nf4, quantize_array

FIXTURES = Path(__file__).parent.parent / "fixtures"
SIZES = {"dim": 64, "ff_dim": 128, "layers": 2, "heads": 2, "vocab_size": 64}
LLAMA = DecoderConfig(kv_heads=2, head_dim=32, **SIZES)
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj"}


def quantized_modules(params):
    found = jax.tree.leaves_with_path(params, is_leaf=is_packed)
    return {path_name(path).split("/")[-2] for path, leaf in found if is_packed(leaf)}


def params():
    return {
        "up": {"kernel": jnp.ones((64, 128)), "bias": jnp.ones(128)},
        "down": {"kernel": jnp.ones((128, 64))},
    }


@pytest.mark.parametrize(
    ("config", "mlp"),
    [
        (LLAMA, {"gate_proj", "up_proj", "down_proj"}),
        (dataclasses.replace(LLAMA, experts=4), {"gate_proj", "up_proj", "down_proj"}),
        (GPT2Config(**SIZES), {"fc1", "fc2"}),
        (BertConfig(**SIZES, head="classification"), {"fc1", "fc2"}),
    ],
    ids=["llama", "experts", "gpt2", "bert"],
)
def test_projections_are_quantised_and_tables_norms_biases_heads_and_routers_kept(config, mlp):
    shapes = models.build(config).shapes
    planned = lora.quantize(shapes, "nf4")
    assert quantized_modules(planned) == PROJECTIONS | mlp
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(planned))
    kept = [leaf for leaf in jax.tree.leaves(planned, is_leaf=is_packed) if not is_packed(leaf)]
    assert all(leaf in jax.tree.leaves(shapes) for leaf in kept)


@pytest.mark.parametrize("pattern", ["o_proj", "layers/o_proj/kernel", r".*/o_\w+"])
def test_kept_weights_are_named_as_targets_are(pattern):
    planned = lora.quantize(models.build(LLAMA).shapes, "int8", keep=(pattern, "lm_head"))
    assert "o_proj" not in quantized_modules(planned)
    assert "q_proj" in quantized_modules(planned)


def test_a_plan_has_the_shapes_of_the_quantised_params():
    made = lora.quantize(params(), "nf4")
    planned = lora.quantize(jax.eval_shape(params), "nf4")
    assert jax.tree.structure(made) == jax.tree.structure(planned)
    for array, plan in zip(jax.tree.leaves(made), jax.tree.leaves(planned), strict=True):
        assert (array.shape, array.dtype) == (plan.shape, plan.dtype)


def test_quantising_leaves_the_params_as_they_were():
    before = params()
    lora.quantize(before, "int8")
    jax.tree.map(np.testing.assert_array_equal, before, params())


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (params, {"kind": "nf5"}, "unknown quantisation 'nf5'; known: int8, nf4"),
        (params, {"keep": ("upp",)}, "keep 'upp' matches no weight; nearest: 'up'"),
        (params, {"keep": ("up", "down")}, "leaves no linear weight to quantise"),
        (params, {"block": 48}, r"block=48 does not divide its 128 inputs; block=64 does"),
        (params, {"block": 3}, "block must be an even number"),
        (lambda: {"kernel": jnp.ones((7, 4))}, {}, "no block does, or keep it"),
        (lambda: {"kernel": jnp.ones((64, 4), int)}, {}, "'kernel'.* is of type int32"),
        (lambda: {"kernel": jnp.ones((64, 4)).at[3, 1].set(jnp.nan)}, {}, "NaN or infinity"),
        (lambda: {"kernel": jnp.full((64, 4), jnp.inf)}, {"kind": "int8"}, "NaN or infinity"),
        (lambda: lora.quantize(params()), {}, "'down/kernel'.* is already quantised"),
    ],
)
def test_what_makes_no_sense_is_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        lora.quantize(make(), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: quantize_array(jnp.ones((64, 2))), "already quantised"),
        (lambda: jnp.ones(64), "no matrix"),
        (lambda: jnp.ones((64, 2), jnp.int8), "only floats are quantised"),
    ],
)
def test_an_array_that_is_no_matrix_of_floats_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        quantize_array(make(), "int8")


def test_quantising_can_be_compiled():
    w = jax.random.normal(jax.random.key(0), (64, 4))
    made = jax.jit(lora.quantize)({"kernel": w})["kernel"]
    assert isinstance(made, Nf4)
    np.testing.assert_array_equal(made.codes, quantize_array(w).codes)
