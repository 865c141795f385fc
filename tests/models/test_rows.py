"""On a mesh, the rows of a batch stay apart: weights travel, hidden states do not."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import lora_jax as lora
from lora_jax import models, training
from lora_jax.analysis.collectives import collectives
from lora_jax.analysis.hlo import parse

CONFIGS = {
    "gpt2": models.GPT2Config(vocab_size=64, dim=16, layers=2, heads=8, ff_dim=64, positions=64),
    "llama": models.DecoderConfig(
        vocab_size=64, dim=16, layers=2, heads=8, kv_heads=8, head_dim=2, ff_dim=64, max_length=64
    ),
}
ROWS, LENGTH = 16, 64  # far more hidden states than weights


@pytest.mark.parametrize(("family", "scan"), [("gpt2", True), ("llama", False)])
def test_fully_sharded_weights_are_gathered_and_hidden_states_are_not_sent(family, scan):
    largest = max(one.nbytes for one in compile_step(family, {"fsdp": 8}, scan))
    # A weight of the feed-forward block, or the table: all are [64, 16] of float32.
    assert largest <= 64 * 16 * 4


def test_beside_tensor_parallelism_only_a_devices_own_rows_are_added_up():
    found = compile_step("gpt2", {"data": 2, "fsdp": 2, "tensor": 2}, scan=True)
    # Hidden states are larger than all else that is added up; products are of rows of tokens.
    tokens = ROWS // 4 * LENGTH
    sums = [one for one in found if one.kind == "all-reduce" and one.nbytes >= tokens * 16 * 4]
    assert sums
    assert {one.shape for one in sums} == {(tokens, 16), (tokens, 8)}  # 8: half of the heads
    assert {one.devices for one in sums} == {(0, 1)}


def compile_step(family, sizes, scan):
    """The collectives of a training step of LoRA."""
    config = dataclasses.replace(CONFIGS[family], scan=scan)
    model = models.build(config)
    ids = jax.ShapeDtypeStruct((ROWS, LENGTH), "int32")
    lifted = lora.lift(model.apply, model.shapes, ids, targets=("q_proj", "v_proj"))

    def loss(variables, batch, key):
        hidden = lifted(variables["params"], variables["adapter"], batch, outputs="hidden")
        return jnp.square(hidden).mean(), {}

    adapter = jax.eval_shape(lifted.init, jax.random.key(0), model.shapes)
    variables = {"params": model.shapes, "adapter": adapter}
    labels = training.label(variables, [("adapter/.*", "adapter"), ("params/.*", None)])
    optimizer = training.make_optimizer({}, labels, 10)
    start = lambda variables: training.init_state(variables, labels, optimizer, jax.random.key(0))
    state, frozen = jax.eval_shape(start, variables)
    mesh = training.make_mesh({"data": 1, **sizes})
    placed = training.variable_shardings(
        mesh, variables, models.partition_rules(config), lifted.sites
    )
    shardings = training.step_shardings(mesh, placed, labels, optimizer, state)
    step = training.make_step(loss, optimizer, shardings)
    return collectives(parse(step.lower(state, frozen, ids).compile().as_text()))
