"""Memory of a step: exact where it can be, and close to what a process is seen to take."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

import lora_jax as lora
from lora_jax import training
from lora_jax.analysis.ahead import Compiled, compile_ahead
from lora_jax.analysis.hlo import parse
from lora_jax.analysis.memory import kept_bytes, local_bytes, step_memory, total_bytes

ROOT = Path(__file__).parent.parent.parent
LAYERS, DIM, ROWS = 5, 16, 8


def model(params, x):
    layer = lambda x, w: (jnp.tanh(x @ w), None)
    return jax.lax.scan(jax.checkpoint(layer), x, params["w"])[0]


def compile_step(sizes, quantize=None):
    """A step of LoRA on a small scanned model, and what it was compiled from."""
    params = {"w": jax.ShapeDtypeStruct((LAYERS, DIM, DIM), "float32")}
    if quantize:
        params = lora.quantize(params, quantize, block=DIM)
    x = jax.ShapeDtypeStruct((ROWS, DIM), "float32")
    lifted = lora.lift(model, params, x, targets=("w",), method=lora.LoRA(rank=2))
    variables = {
        "params": params,
        "adapter": jax.eval_shape(lifted.init, jax.random.key(0), params),
    }
    labels = training.label(variables, [("adapter/.*", "adapter"), ("params/.*", None)])
    optimizer = training.make_optimizer({}, labels, 10)
    start = lambda variables: training.init_state(variables, labels, optimizer, jax.random.key(0))
    state, frozen = jax.eval_shape(start, variables)
    mesh = training.make_mesh({"data": -1, **sizes})
    rules = [("params/w", P(None, "fsdp", "tensor"))]
    placed = training.variable_shardings(mesh, variables, rules, lifted.sites)
    shardings = training.step_shardings(mesh, placed, labels, optimizer, state)
    loss = lambda variables, batch, _: (
        jnp.square(lifted(variables["params"], variables["adapter"], batch["x"])).mean(),
        {},
    )
    step = training.make_step(loss, optimizer, shardings)
    stats = step.lower(state, frozen, {"x": x}).compile()
    memory = stats.memory_analysis()
    compiled = Compiled(
        parse(stats.as_text()),
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
    )
    return state, frozen, {"x": x}, shardings, compiled


@pytest.mark.parametrize("sizes", [{}, {"fsdp": 8}, {"fsdp": 2, "tensor": 2}])
@pytest.mark.parametrize("quantize", [None, "nf4"])
def test_the_parts_are_what_the_compiled_step_takes(sizes, quantize):
    *step, compiled = compile_step(sizes, quantize)
    memory = step_memory(*step, compiled)
    assert (memory.frozen, memory.trained) > (0, 0)
    # Beside them, the number of the step (4 bytes) and the random key (8).
    held = memory.frozen + memory.trained + memory.optimizer + memory.batch
    assert compiled.arguments == held + 12
    assert memory.peak >= held + memory.temporaries


def test_a_split_weight_takes_each_device_its_part():
    state, frozen, _, shardings, _ = compile_step({"fsdp": 4, "tensor": 2})
    assert total_bytes(frozen) == LAYERS * DIM * DIM * 4
    assert local_bytes(frozen, shardings.frozen) == total_bytes(frozen) / 8
    a, b = LAYERS * DIM * 2 * 4, LAYERS * 2 * DIM * 4
    assert total_bytes(state.trainable) == a + b
    assert local_bytes(state.trainable, shardings.state.trainable) == a / 4 + b / 2


def test_scanned_layers_keep_their_inputs_for_the_backward_pass():
    def loss(weights, x):
        layer = lambda x, w: (jnp.tanh(x @ w), None)
        return jax.lax.scan(jax.checkpoint(layer), x, weights)[0].sum()

    weights = jax.ShapeDtypeStruct((LAYERS, DIM, DIM), "float32")
    x = jax.ShapeDtypeStruct((ROWS, DIM), "float32")
    lowered = jax.jit(jax.grad(loss)).lower(weights, x)
    # The gradients are stacked too, but by the backward pass.
    program = parse(lowered.as_text(dialect="hlo", debug_info=True))
    assert kept_bytes(program) == LAYERS * ROWS * DIM * 4


def test_a_program_for_one_device_needs_no_partitioning():
    x = jax.ShapeDtypeStruct((4, 8), "float32")
    compiled = compile_ahead(jax.jit(lambda x: x @ x.T).lower(x), devices=1)
    assert (compiled.arguments, compiled.results) == (4 * 8 * 4, 4 * 4 * 4)
    assert compiled.peak == compiled.arguments + compiled.results + compiled.temporaries


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh", [("1", "data=1"), ("8", "fsdp=8"), ("8", "data=2", "fsdp=2", "tensor=2")], ids=str
)
def test_the_plan_is_within_a_tenth_of_what_the_process_is_seen_to_take(mesh):
    found = json.loads(measure(*mesh))
    assert found["measured"] > 2**30
    assert abs(found["planned"] / found["measured"] - 1) < 0.1


def measure(*arguments):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells the peak of a process from a given moment on")
    command = [sys.executable, "scripts/measure_plan.py", *arguments]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout
