"""Puts a run on a mesh: its variables, its state and its batches.

Nothing here changes a number. Every process calls these functions alike; each holds only its own
slices.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, PyTree

from lora_jax.hub import Pretrained
from lora_jax.lifting import Site
from lora_jax.models import partition_rules
from lora_jax.training.labels import split
from lora_jax.training.optimizer import Optimizer
from lora_jax.training.sharding import Shardings, step_shardings, variable_shardings
from lora_jax.training.state import TrainState, init_state

InitFn = Callable[[Pretrained, Array], dict[str, Any]]


def place(
    mesh: Mesh, base: Pretrained, init: InitFn, key: Array, sites: Sequence[Site] = ()
) -> dict[str, Any]:
    """Makes the variables of a run, each array where it belongs.

    What is new beside the params is made by one compiled program, in its place from the start.

    Args:
      mesh: from `make_mesh`.
      base: the pretrained model; its params stay where `hub.load_model(..., mesh=mesh)` put them,
        or are moved there.
      init: `init(base, key)` returns `{"params": base.params, "adapter": ..., "head": ...}`.
      key: the source of randomness.
      sites: `lifted.sites`, so that factors are split as their weights are.

    Returns:
      The variables.

    Raises:
      ValueError: the mesh does not divide an axis of a weight; the message says what would fit.
    """

    def new(params: PyTree, key: Array) -> dict[str, Any]:
        made = init(base._replace(params=params), key)
        return {name: tree for name, tree in made.items() if name != "params"}

    variables = {"params": base.params, **jax.eval_shape(new, base.params, key)}
    where = variable_shardings(mesh, variables, partition_rules(base.config), sites)
    params = jax.device_put(base.params, where.pop("params"))
    return {"params": params, **jax.jit(new, out_shardings=where)(params, key)}


def place_state(
    mesh: Mesh, variables: PyTree, labels: PyTree, optimizer: Optimizer, key: Array
) -> tuple[TrainState, PyTree, Shardings]:
    """Starts a run on a mesh, as `init_state` does on one device.

    Args:
      mesh: from `make_mesh`.
      variables: from `place`.
      labels: the label tree.
      optimizer: its moments go where their arrays are.
      key: the run's random key.

    Returns:
      `(state, frozen, shardings)`: the first two arguments of a step, and what `make_step` is to
      know of where they are.
    """
    trainable, frozen = split(variables, labels)

    def start(trainable: PyTree, key: Array) -> TrainState:
        # All of it trains: what is frozen has been split off.
        return init_state(trainable, jax.tree.map(lambda _: "", trainable), optimizer, key)[0]

    where = jax.tree.map(lambda x: x.sharding, variables)
    abstract = jax.eval_shape(start, trainable, key)
    shardings = step_shardings(mesh, where, labels, optimizer, abstract)
    state = jax.jit(start, out_shardings=shardings.state)(trainable, key)
    return state, frozen, shardings


def place_batch(batch: PyTree, sharding: Sharding | None) -> PyTree:
    """Puts a batch on the devices.

    Args:
      batch: arrays with the rows of `process_rows` alone.
      sharding: `Shardings.batch`; None for the default device.

    Returns:
      The whole batch, of which this process holds its part.
    """
    if sharding is None or jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def gather_whole(tree: PyTree) -> PyTree:
    """Gives each process a whole copy of placed arrays; a process that is alone has one.

    Args:
      tree: arrays on one mesh, of which each process holds its part.

    Returns:
      The same tree, of arrays on the devices of this process alone.
    """
    if jax.process_count() == 1:
        return tree
    mesh = jax.tree.leaves(tree)[0].sharding.mesh
    copied = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))(tree)
    return jax.tree.map(lambda x: x.addressable_data(0), copied)


def on_mesh(mesh: Mesh, outputs: Callable[..., PyTree]) -> Callable[[PyTree, PyTree], PyTree]:
    """Compiles what a model returns for a batch, for evaluation: every process gets all of it.

    Args:
      mesh: its axes `data` and `fsdp` split the rows.
      outputs: `outputs(variables, batch)`.

    Returns:
      The same function of placed variables and a batch that every process has read as a whole.
    """
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    def whole(variables: PyTree, batch: PyTree) -> PyTree:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return outputs(variables, batch)

    compiled = jax.jit(whole, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def apply(variables: PyTree, batch: PyTree) -> PyTree:
        split_rows = lambda x: jax.make_array_from_callback(x.shape, rows, lambda part: x[part])
        return compiled(variables, jax.tree.map(split_rows, batch))

    return apply


def process_rows(mesh: Mesh, batch_size: int, micro_batches: int = 1) -> list[int]:
    """Says which rows of each batch this process has to read.

    Args:
      mesh: its axes `data` and `fsdp` split the batch.
      batch_size: rows of the whole batch.
      micro_batches: parts of a batch, as `make_step` takes them.

    Returns:
      The numbers of the rows, in order.

    Raises:
      ValueError: the mesh does not divide the batch, or the parts of it.
    """
    check_batch(mesh, "batch_size", batch_size, micro_batches)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    indices = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique([np.arange(batch_size)[index] for index in indices]).tolist()


def check_batch(mesh: Mesh, name: str, size: int, micro_batches: int = 1) -> None:
    """Checks that the devices share the rows of a batch evenly.

    Raises:
      ValueError: they do not; the nearest sizes that would do are named.
    """
    if micro_batches < 1:
        raise ValueError(f"micro_batches = {micro_batches}: at least 1 is needed")
    parts = micro_batches * math.prod(mesh.shape[axis] for axis in ("data", "fsdp"))
    if size < 1 or size % parts:
        below = size // parts * parts
        fits = f"{below} or {below + parts}" if below > 0 else f"{parts}"
        times = "micro_batches x " if micro_batches > 1 else ""
        raise ValueError(
            f"{name} = {size} does not divide by {times}mesh data x fsdp = {parts}; {fits} would"
        )
