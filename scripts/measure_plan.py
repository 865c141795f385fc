"""Is the memory that a plan tells what a step takes? Prints both as a table in Markdown.

    python scripts/measure_plan.py                     on each of `MESHES`
    python scripts/measure_plan.py 8 fsdp=8            DEVICES and sizes: one, in JSON

Each mesh of CPU devices has a process of its own. Compiling done, the operating system's peak of
the process is reset (`/proc/self/clear_refs`, so Linux only); then the arrays of the step are made,
and the step is taken. What the process holds at most beyond what it held before is the measure. It
has the plan's temporaries in it, and whatever else the step needs, such as the buffers of threads.
"""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lora_jax as lora
from lora_jax import models, training
from lora_jax.analysis.ahead import compile_ahead
from lora_jax.hub import abstract_model
from lora_jax.training import language_model

MESHES = (("1", "data=1"), ("8", "fsdp=8"), ("8", "data=2", "fsdp=2", "tensor=2"))

# As GPT-2, but narrower and less deep: 29.5 million parameters.
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
ROWS, LENGTH = 32, 256


def main(arguments: list[str]) -> None:
    """Measures one mesh, or all in turn."""
    if arguments:
        print(json.dumps(measure(int(arguments[0]), arguments[1:])))
        return
    print("| mesh | planned GB | measured GB | ratio |\n|---|---|---|---|")
    for mesh in MESHES:
        command = [sys.executable, __file__, *mesh]
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        planned, measured = found["planned"], found["measured"]
        print(
            f"| {' '.join(mesh[1:])} | {planned / 1e9:.2f} | {measured / 1e9:.2f} "
            f"| {planned / measured:.2f} |",
            flush=True,
        )


def measure(devices: int, sizes: list[str]) -> dict[str, int]:
    """Plans a step and takes it.

    Args:
      devices: how many.
      sizes: axes of the mesh, such as "fsdp=8".

    Returns:
      The bytes of all devices that were `planned`, and `measured`.
    """
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_num_cpu_devices", devices)
    axes = dict(size.split("=") for size in sizes)
    mesh = training.make_mesh({"data": 1} | {name: int(size) for name, size in axes.items()})
    lowered, shapes, shardings = lower(mesh)
    planned = compile_ahead(lowered, mesh.size).peak * mesh.size
    run: Any = lowered.compile()

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held
    before = peak()
    jax.block_until_ready(run(*make_arrays(shapes, shardings)))
    return {"planned": planned, "measured": peak() - before}


def lower(mesh: jax.sharding.Mesh) -> tuple[jax.stages.Lowered, Any, training.Shardings]:
    """Lowers a step of LoRA, and says the shapes of its arguments and where they live."""
    base = abstract_model(FIELDS)
    ids = jax.ShapeDtypeStruct((ROWS, LENGTH), "int32")
    lifted = lora.lift(base.apply, base.params, ids, targets=("q_proj", "v_proj"))
    init = lambda params, key: language_model.init_variables(
        base._replace(params=params), lifted, key
    )
    variables = jax.eval_shape(init, base.params, jax.random.key(0))
    labels = training.label(variables, [("adapter/.*", "adapter"), ("params/.*", None)])
    optimizer = training.make_optimizer({}, labels, 1)
    start = lambda variables: training.init_state(variables, labels, optimizer, jax.random.key(0))
    state, frozen = jax.eval_shape(start, variables)
    rules = models.partition_rules(base.config)
    placed = training.variable_shardings(mesh, variables, rules, lifted.sites)
    shardings = training.step_shardings(mesh, placed, labels, optimizer, state)
    loss = partial(language_model.loss, language_model.make_outputs(base, lifted))
    step: Any = training.make_step(loss, optimizer, shardings)
    shapes = state, frozen, {"ids": ids, "trained": ids, "segments": ids}
    return step.lower(*shapes), shapes, shardings


def make_arrays(shapes: Any, shardings: training.Shardings) -> tuple[Any, Any, Any]:
    """Arrays of ones in their places, each made where it stays."""

    def make(shape: Any, sharding: jax.sharding.Sharding) -> jax.Array:
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


def peak() -> int:
    """The most memory that the process held since the peak was reset, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    main(sys.argv[1:])
