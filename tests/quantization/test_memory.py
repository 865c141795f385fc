"""What a training step over a quantised base holds, read from the compiled program."""

import re

import jax
import jax.numpy as jnp
import optax
import pytest

import lora_jax as lora
from lora_jax import models
from lora_jax.models.decoder import DecoderConfig

LAYERS, DIM, FF, VOCAB, LENGTH = 16, 512, 1536, 256, 32
# The compiler may rewrite a while loop and move work out of it; so scanned, rematerialised layers.
CONFIG = DecoderConfig(
    dim=DIM,
    ff_dim=FF,
    layers=LAYERS,
    heads=8,
    kv_heads=8,
    head_dim=64,
    vocab_size=VOCAB,
    dtype="bfloat16",
    scan=True,
    remat="full",
)


@pytest.fixture(scope="module")
def step():
    """A QLoRA step on every linear weight, compiled from shapes alone, and its sizes in bytes."""
    model = models.build(CONFIG)
    params = lora.quantize(model.shapes, "nf4")
    ids = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)
    method = lora.LoRA(rank=4)
    lifted = lora.lift(
        model.apply, params, ids, method=method, targets=lora.ALL_LINEAR, strict=True
    )
    factors = jax.eval_shape(lifted.init, jax.random.key(0), params)
    optimizer = optax.adam(1e-3)
    state = jax.eval_shape(optimizer.init, factors)

    def update(factors, state, params, ids):
        loss = lambda factors: lifted(params, factors, ids).var()
        value, gradient = jax.value_and_grad(loss)(factors)
        changes, state = optimizer.update(gradient, state)
        return optax.apply_updates(factors, changes), state, value

    compiled = jax.jit(update).lower(factors, state, params, ids).compile()
    trained = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((factors, state)))
    return compiled, lifted.num_base_parameters, trained


def test_a_step_is_given_at_most_0_6_bytes_for_a_frozen_weight(step):
    compiled, weights, trained = step
    frozen = compiled.memory_analysis().argument_size_in_bytes - trained
    assert frozen < 0.6 * weights  # 4.127 bits, and two bytes for each entry of the tables


def test_a_step_works_in_one_dense_layer_besides_activations(step):
    compiled, weights, trained = step
    layer = 4 * (4 * DIM * DIM + 3 * DIM * FF)  # in fp32
    carries = 4 * LENGTH * (LAYERS * DIM + VOCAB)  # kept between the passes, and the logits
    assert compiled.memory_analysis().temp_size_in_bytes < layer + 4 * carries + trained
    assert layer + 4 * carries + trained < 4 * weights / 2  # half of the dense weights in fp32


def test_no_stack_of_dense_weights_is_in_the_compiled_step(step):
    compiled, *_ = step
    matrices = {f"{DIM},{FF}", f"{FF},{DIM}", f"{DIM},{DIM}"}
    types, text = "(?:bf16|f32|s32|u32)", compiled.as_text()
    stacks = re.findall(rf"{types}\[{LAYERS},(\d+,\d+)\]", text)
    assert not matrices & set(stacks)
    # They are there a layer at a time: the search would find them.
    assert matrices <= set(re.findall(rf"{types}\[(\d+,\d+)\]", text))
