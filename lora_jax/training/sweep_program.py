"""What all members of a sweep have in common, and how one of them is filled up to it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import PyTree

from lora_jax.adapters import common_shapes, pad
from lora_jax.lifting import Lifted, path_name
from lora_jax.training.labels import FROZEN
from lora_jax.training.optimizer import Optimizer, OptimizerConfig, assemble
from lora_jax.training.state import TrainState
from lora_jax.training.step import LossFn, make_step
from lora_jax.training.sweep_lift import JointLift
from lora_jax.training.sweep_members import Member

InitMember = Callable[[Member, Lifted | None, Array], Mapping[str, Any]]
OneStep = Callable[[TrainState, PyTree, PyTree], tuple[TrainState, dict[str, Array]]]

# Of every array with a leading axis of members.
MEMBERS = PartitionSpec("data")
# What a sweep adds to the variables of a member.
SETTINGS, CLASSES = "sweep", "classes"


class Solo(NamedTuple):
    """A member as a run of its own.

    Attributes:
      member: its description.
      lifted: its own function; None without an adapter.
      shapes: of its own variables, but for the params.
    """

    member: Member
    lifted: Lifted | None
    shapes: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """What all members have in common.

    Attributes:
      params: the base.
      init: makes the variables of a member alone.
      joint: the function with the adapters of all.
      shapes: of one member's variables, filled up, but for the params.
      config: settings of the optimiser; those that differ are replaced by arrays.
      labels: of one member's variables, with what the sweep adds to them.
      unequal: paths within the adapter of what trains for some members only.
      chunk: members that a device computes at a time; 0 for all of its own.
      mesh: devices, among which the members are split along `data`.
    """

    params: PyTree
    init: InitMember
    joint: JointLift
    shapes: Mapping[str, Any]
    config: OptimizerConfig
    labels: Mapping[str, Any]
    unequal: tuple[str, ...]
    chunk: int
    mesh: Mesh | None = None

    def fill(self, solo: Solo, settled: OptimizerConfig, data: int) -> dict[str, Any]:
        """The variables with which a member starts, filled up, with its settings.

        Args:
          solo: the member.
          settled: the settings of its optimiser.
          data: the number of its batch among the different ones.

        Returns:
          NumPy arrays; of the params only those that train.
        """
        member = solo.member
        found = dict(self.init(member, solo.lifted, jax.random.key(member.seed)))
        params = jax.tree.map(
            lambda x, name: None if name == FROZEN else np.asarray(x),
            found.pop("params"),
            self.labels["params"],
        )
        tree = {k: _pad(member.name, k, found.get(k), like) for k, like in self.shapes.items()}
        for path, own in self.joint.settings(member).items():
            tree["adapter"][path] |= own
        if CLASSES in self.labels:
            tree[CLASSES] = np.int32(member.outputs)
        fixed = self.joint.fixed(member)
        self._check_learns(member, fixed)
        learns = {path: float(path not in fixed) for path in self.unequal}
        return {"params": params, **tree, SETTINGS: settings(settled, learns, data)}

    def _check_learns(self, member: Member, fixed: set[str]) -> None:
        """Raises `ValueError` where a member trains other arrays than this program can."""
        adapted = set(self.joint.settings(member)) & {path.rpartition("/")[0] for path in fixed}
        labels = self.labels.get("adapter", {})
        for site in adapted:
            for name, found in labels[site].items():
                path = f"{site}/{name}"
                if path in fixed and found != FROZEN and path not in self.unequal:
                    raise ValueError(
                        f"{member.name!r} does not train {path}, and in this sweep all members "
                        f"do: make another one"
                    )

    def separate(self, variables: PyTree) -> tuple[PyTree, PyTree]:
        """Parts variables, or their frozen ones, into each member's own and what all share."""
        shared = lambda path, name: name == FROZEN and path_name(path).startswith("params/")
        is_shared = jax.tree.map_with_path(shared, dict(self.labels))
        take = lambda wanted: jax.tree.map(
            lambda here, x: x if here == wanted else None, is_shared, variables
        )
        return take(False), take(True)

    def map(self, one: Callable[[PyTree], PyTree], own: PyTree) -> PyTree:
        """Calls a function for each member, all at once or a chunk at a time, on each device."""
        count = len(jax.tree.leaves(own)[0])
        if self.mesh is None or count % self.mesh.shape["data"]:  # of some members, say
            return self._map_here(one, own)
        # Members of a device lie side by side. What all share is there as it was placed.
        split = functools.partial(jax.shard_map, mesh=self.mesh, axis_names={"data"})
        here = functools.partial(self._map_here, one)
        return split(here, in_specs=MEMBERS, out_specs=MEMBERS, check_vma=False)(own)

    def _map_here(self, one: Callable[[PyTree], PyTree], own: PyTree) -> PyTree:
        count = len(jax.tree.leaves(own)[0])
        if self.chunk == 1:  # without an axis of one member, which costs XLA:CPU fast reductions
            return lax.map(one, own)
        if not self.chunk or self.chunk >= count:
            return jax.vmap(one)(own)
        return lax.map(one, own, batch_size=self.chunk)

    def one_step(self, loss_fn: LossFn, steps: int, micro_batches: int) -> OneStep:
        """The step of one member, whose settings are arrays among its frozen variables."""

        def step(
            state: TrainState, frozen: PyTree, batch: PyTree
        ) -> tuple[TrainState, dict[str, Array]]:
            own = frozen[SETTINGS]
            groups = {name: _with_arrays(name, g, own) for name, g in self.config.groups.items()}
            config = dataclasses.replace(
                self.config, learning_rate=own["learning_rate"], groups=groups
            )
            learns = own["learns"]

            def loss_of(variables: PyTree, batch: PyTree, key: Array) -> Any:
                held = _adapter_only(variables, learns, _hold)
                return loss_fn(without_settings(held), batch, key)

            optimizer = _masked(assemble(config, self.labels, steps), learns)
            return make_step(loss_of, optimizer, micro_batches=micro_batches)(state, frozen, batch)

        return step


def _pad(name: str, collection: str, tree: Any, like: Any) -> Any:
    try:
        return pad(tree, like)
    except ValueError as error:
        raise ValueError(f"{name!r} does not fit this sweep: {collection}: {error}") from error


def solo_runs(members: Sequence[Member], joint: JointLift, init: InitMember) -> list[Solo]:
    """Each member as a run of its own.

    Raises:
      ValueError: a member adapts what the function of all does not.
    """
    made: dict[str, tuple[Lifted | None, dict[str, Any]]] = {}
    for member in members:
        kind = str((member.targets, member.method, member.exclude, member.task, member.outputs))
        if kind not in made:
            lifted = joint.of(member)
            shapes = dict(
                jax.eval_shape(lambda key: init(member, lifted, key), jax.random.key(0))  # noqa: B023
            )
            shapes.pop("params")
            made[kind] = lifted, shapes
    kinds = [str((m.targets, m.method, m.exclude, m.task, m.outputs)) for m in members]
    return [Solo(member, *made[kind]) for member, kind in zip(members, kinds, strict=True)]


def filled_shapes(solos: Sequence[Solo], joint: JointLift) -> dict[str, Any]:
    """The shapes that the variables of all members are filled up to.

    Raises:
      ValueError: some variables of two members cannot have one shape.
    """
    trees = [{k: v for k, v in solo.shapes.items() if k != "adapter"} for solo in solos]
    for solo, tree in zip(solos, trees, strict=True):
        try:
            common_shapes([trees[0], tree])
        except ValueError as error:
            first = solos[0].member.name
            raise ValueError(f"members {first!r} and {solo.member.name!r}: {error}") from error
    shapes = common_shapes(trees)
    if joint.lifted is not None:
        shapes["adapter"] = {site.path: dict(site.arrays) for site in joint.lifted.sites}
    return shapes


def padded_arrays(solos: Sequence[Solo], shapes: Mapping[str, Any]) -> dict[str, str]:
    """Paths of arrays that some member has in a smaller shape, with the name of one of them."""
    full = {path_name(path): x.shape for path, x in jax.tree.leaves_with_path(dict(shapes))}
    return {
        path_name(path): solo.member.name
        for solo in solos
        for path, x in jax.tree.leaves_with_path(solo.shapes)
        if full[path_name(path)] != x.shape
    }


def settings(settled: OptimizerConfig, learns: Mapping[str, float], data: int) -> dict[str, Any]:
    """What makes the updates of a member differ from those of others, as arrays."""
    number = lambda field: {
        label: np.float32(group[field]) for label, group in settled.groups.items()
    }
    return {
        "data": np.int32(data),
        "learning_rate": np.float32(settled.learning_rate),
        "multiplier": number("multiplier"),
        "weight_decay": number("weight_decay"),
        "learns": {path: np.float32(value) for path, value in learns.items()},
    }


def without_settings(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that a loss knows."""
    return {name: tree for name, tree in variables.items() if name != SETTINGS}


def _with_arrays(label: str, group: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    arrays = {"multiplier": own["multiplier"][label]}
    if group["name"] != "adam":  # which has none, and refuses any
        arrays["weight_decay"] = own["weight_decay"][label]
    return {**group, **arrays}


def _masked(optimizer: Optimizer, learns: Mapping[str, Array]) -> Optimizer:
    """Leaves alone what does not train for a member, whatever the optimiser does to it."""
    if not learns:
        return optimizer

    def update(*args: Any, **kwargs: Any) -> tuple[PyTree, PyTree]:
        updates, state = optimizer.update(*args, **kwargs)
        drop = lambda update, learn: jnp.where(learn > 0, update, jnp.full_like(update, -0.0))
        return _adapter_only(updates, learns, drop), state

    return Optimizer(optimizer.init, update, optimizer.schedule)


def _hold(x: Array, learns: Array) -> Array:
    return jnp.where(learns > 0, x, lax.stop_gradient(x))


def _adapter_only(
    tree: PyTree, learns: Mapping[str, Array], change: Callable[[Array, Array], Array]
) -> PyTree:
    """Changes the arrays of an adapter that train for some members only."""
    if not learns:
        return tree
    adapter = {site: dict(arrays) for site, arrays in tree["adapter"].items()}
    for path, learn in learns.items():
        site, _, name = path.rpartition("/")
        adapter[site][name] = change(adapter[site][name], learn)
    return {**tree, "adapter": adapter}
