"""Sharding: where each array lives on a mesh of devices.

The mesh has three axes. `data` splits the batch; `fsdp` splits the batch and the weights; `tensor`
splits the weights along what they compute. Rules give each weight its layout; a factor follows its
weight.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from lora_jax.lifting import Site, carried_axes, is_packed, path_name
from lora_jax.models.partition import Rule, check_fits, divisors, first_match
from lora_jax.quantization import packed_shardings
from lora_jax.training.identity import Config
from lora_jax.training.labels import split
from lora_jax.training.optimizer import Optimizer
from lora_jax.training.state import TrainState

AXES = ("data", "fsdp", "tensor")


class Shardings(NamedTuple):
    """Where the three arguments of a step live."""

    state: PyTree  # a TrainState whose leaves are shardings
    frozen: PyTree
    batch: NamedSharding


def make_mesh(config: Config | None = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges the devices.

    Args:
      config: sizes of `data`, `fsdp` and `tensor`, 1 where absent; one may be -1, for all devices
        that the others leave. Default: all devices on `data`.
      devices: default `jax.devices()`.

    Returns:
      A mesh with the axes `("data", "fsdp", "tensor")`.

    Raises:
      ValueError: an unknown axis, or sizes whose product is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    config = dict({"data": -1} if config is None else config)
    for name in config:
        if name not in AXES:
            raise ValueError(f"mesh.{name}: no such axis; the axes are {', '.join(AXES)}")
    sizes = _fill_in([config.get(name, 1) for name in AXES], len(devices))
    # Auto: the compiler places what lies between inputs and outputs (the default, Explicit, would
    # put shardings into the types of a model that knows nothing of meshes).
    return jax.make_mesh(sizes, AXES, (AxisType.Auto,) * len(AXES), devices=devices)


def variable_shardings(
    mesh: Mesh, variables: PyTree, rules: Sequence[Rule], sites: Sequence[Site] = ()
) -> PyTree:
    """Gives each array its place on the mesh.

    Args:
      mesh: from `make_mesh`.
      variables: `{"params": ..., "adapter": ..., "head": ...}`, arrays or abstract shapes.
      rules: `(regex, PartitionSpec)` pairs; the first regex that matches a whole path, such as
        `params/layers/q_proj/kernel`, wins. An array that none matches is replicated.
      sites: `lifted.sites`. An array of an adapter is split as its weight is, along those of its
        axes that are axes of the weight: LoRA's `a` along the batch and input axes, `b` along the
        batch and output axes, the rank along none. The arrays of a quantised weight are split as
        the weight is.

    Returns:
      The same tree of `NamedSharding`s: for `jax.device_put(variables, shardings)` and
      `step_shardings`.

    Raises:
      ValueError: a rule that matches nothing, a spec with more axes than the array has, or a mesh
        axis that does not divide the array's.
    """
    leaves, structure = jax.tree.flatten_with_path(variables, is_leaf=is_packed)
    shapes = {path_name(path): tuple(leaf.shape) for path, leaf in leaves}
    specs = _first_matches(list(shapes), rules)
    for site in sites:
        specs.update(_factor_specs(site, specs, shapes))
    for path, shape in shapes.items():
        check_fits(mesh, path, shape, specs[path])
    placed: list[PyTree] = []
    for (_, leaf), path in zip(leaves, shapes, strict=True):
        sharding = NamedSharding(mesh, specs[path])
        placed.append(packed_shardings(leaf, sharding) if is_packed(leaf) else sharding)
    return jax.tree.unflatten(structure, placed)


def step_shardings(
    mesh: Mesh, placed: PyTree, labels: PyTree, optimizer: Optimizer, state: TrainState
) -> Shardings:
    """Gives the arguments of a step their places, from those of the variables.

    Args:
      mesh: from `make_mesh`.
      placed: the tree of `variable_shardings`.
      labels: the label tree.
      optimizer: the optimiser; its moments live where their arrays do, its counters everywhere.
      state: a `TrainState`, of arrays or abstract shapes.

    Returns:
      `Shardings`, for `make_step`, `jax.device_put(state, shardings.state)` and the batches.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    trainable, frozen = split(placed, labels)
    moments = optax.tree.map_params(
        optimizer,
        lambda x, array, where: _moment_sharding(x, array, where, everywhere),
        state.opt_state,
        state.trainable,
        trainable,
        transform_non_params=lambda _: everywhere,
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )
    batch = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    where = jax.tree.map(lambda _: everywhere, state)
    return Shardings(where._replace(trainable=trainable, opt_state=moments), frozen, batch)


def _moment_sharding(
    moment: Any, array: Any, where: NamedSharding, everywhere: NamedSharding
) -> Any:
    if isinstance(moment, optax.MaskedNode):
        return moment
    # Adafactor keeps sums over rows and columns, which have other axes and are small.
    return where if moment.shape == array.shape else everywhere


def _fill_in(sizes: list[int], count: int) -> tuple[int, ...]:
    asked = " x ".join(f"{name}={size}" for name, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"mesh {asked}: sizes are positive, and one of them may be -1")
    given = math.prod(size for size in sizes if size != -1)
    if count % given or (-1 not in sizes and given != count):
        multiple = "a multiple of " if -1 in sizes else ""
        raise ValueError(
            f"mesh {asked} needs {multiple}{given} devices and there are {count}; "
            f"sizes that divide {count}: {divisors(count, count)}"
        )
    return tuple(count // given if size == -1 else size for size in sizes)


def _first_matches(paths: Sequence[str], rules: Sequence[Rule]) -> dict[str, PartitionSpec]:
    for regex, _ in rules:
        if not any(re.fullmatch(regex, path) for path in paths):
            raise ValueError(
                f"the sharding rule {regex!r} matches nothing, in {list(paths)[:3]} ..."
            )
    return {path: first_match(rules, path) for path in paths}


def _factor_specs(
    site: Site, specs: Mapping[str, PartitionSpec], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, PartitionSpec]:
    path = f"params/{site.path}"
    weight = tuple(specs[path]) + (None,) * (len(shapes[path]) - len(specs[path]))
    found = {
        f"adapter/{site.path}/{name}": [None if axis is None else weight[axis] for axis in axes]
        for name, axes in carried_axes(site).items()
    }
    return {name: PartitionSpec(*spec) for name, spec in found.items() if name in shapes}
