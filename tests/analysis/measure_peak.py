"""Plans a step, then takes it, and prints both peaks of memory in bytes: DEVICES SIZES.

Run in a process of its own, because the peak is that of the process: what it holds beyond what it
held before the arrays of the step were made. Compiling is done by then, and the operating system's
peak is reset (`/proc/self/clear_refs`).

python -m tests.analysis.measure_peak 8 fsdp=8
"""

import gc
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import lora_jax as lora
from lora_jax import models, training
from lora_jax.analysis.ahead import compile_ahead
from lora_jax.hub import abstract_model
from lora_jax.training import language_model

FIELDS = {
    "model_type": "gpt2",
    "vocab_size": 8192,
    "n_embd": 512,
    "n_layer": 8,
    "n_head": 8,
    "n_positions": 256,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
}
ROWS, LENGTH = 16, 256


def main(devices, *sizes):
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_num_cpu_devices", int(devices))
    config = {name: int(size) for name, size in (each.split("=") for each in sizes)}
    mesh = training.make_mesh({"data": 1, **config})
    base = abstract_model(FIELDS, dtype="float32", scan=True)
    ids = jax.ShapeDtypeStruct((ROWS, LENGTH), "int32")
    lifted = lora.lift(base.apply, base.params, ids, targets=("q_proj", "v_proj"))
    loss = language_model.make_outputs(base, lifted)
    make = lambda params, key: language_model.init_variables(
        base._replace(params=params), lifted, key
    )
    variables = jax.eval_shape(make, base.params, jax.random.key(0))
    labels = training.label(variables, [("adapter/.*", "adapter"), ("params/.*", None)])
    optimizer = training.make_optimizer({}, labels, 1)
    start = lambda variables: training.init_state(variables, labels, optimizer, jax.random.key(0))
    state, frozen = jax.eval_shape(start, variables)
    rules = models.partition_rules(base.config)
    placed = training.variable_shardings(mesh, variables, rules, lifted.sites)
    shardings = training.step_shardings(mesh, placed, labels, optimizer, state)
    step = training.make_step(
        lambda *given: language_model.loss(loss, *given), optimizer, shardings
    )
    batch = {"ids": ids, "trained": ids, "segments": ids}
    lowered = step.lower(state, frozen, batch)
    planned = compile_ahead(lowered, mesh.size).peak * mesh.size
    run = lowered.compile()

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held
    before = resident("VmHWM")
    jax.block_until_ready(run(*make_arrays((state, frozen, batch), shardings)))
    sys.stdout.write(json.dumps({"planned": planned, "measured": resident("VmHWM") - before}))


def make_arrays(shapes, shardings):
    """Arrays of these shapes in their places, each made where it stays."""

    def make(shape, sharding):
        if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
            return jax.device_put(jax.random.key(0), sharding)
        local = np.ones(sharding.shard_shape(shape.shape), shape.dtype)
        return jax.make_array_from_callback(shape.shape, sharding, lambda _: local)

    state, frozen, batch = shapes
    return (
        jax.tree.map(make, state, shardings.state),
        jax.tree.map(make, frozen, shardings.frozen),
        jax.tree.map(lambda shape: make(shape, shardings.batch), batch),
    )


def resident(field):
    """A figure of the process, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
