"""Joint sweeps: many runs over one frozen base as one compiled program.

The step of a sweep is the step of one run under `jax.vmap`: what trains, its optimiser's state and
its settings lie on a leading axis of members; the base has no such axis, and is there once. So a
product with a frozen weight is one product for all members.

Adapters of all members lie in the arrays of one (`adapters.joint`): the weights that any of them
adapts, at the largest rank, filled up with zeros. Zeros stay zeros: their gradients are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from lora_jax.adapters import crop
from lora_jax.lifting import Lifted
from lora_jax.training.labels import FROZEN, LORA, Rule, join, label, split
from lora_jax.training.optimizer import assemble
from lora_jax.training.sharding import Shardings
from lora_jax.training.state import TrainState
from lora_jax.training.step import LossFn, StepFn
from lora_jax.training.sweep_lift import JointLift, Ranks, lift_all
from lora_jax.training.sweep_members import Member, check_members, check_padding, settle_all
from lora_jax.training.sweep_program import (
    CLASSES,
    MEMBERS,
    SETTINGS,
    InitMember,
    OneStep,
    Program,
    Solo,
    filled_shapes,
    padded_arrays,
    settings,
    solo_runs,
    without_settings,
)


class SweepState(NamedTuple):
    """What the members' optimisers keep, and the step at which each member diverged; 0 if not."""

    members: PyTree
    diverged: Array  # int32 [members]


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
    """A program for as many runs as it was made for.

    Attributes:
      members: those that it was made for; others that fit can use it too.
      lifted: the function with the adapters of all members; None if none has one.
      steps: length of every run.
      step: `step(state, frozen, batch) -> (state, metrics)`, compiled once. The arrays of a batch
        have a leading axis of different batches; `frozen["sweep"]["data"]` says whose is which.
      labels: of the variables of one member.
      shardings: where the arguments of the step live; None for one device.
    """

    members: tuple[Member, ...]
    lifted: Lifted | None
    steps: int
    step: StepFn
    labels: PyTree
    shardings: Shardings | None
    _program: Program

    def start(self, members: Sequence[Member] | None = None) -> tuple[TrainState, PyTree]:
        """Starts all runs, each as it starts alone.

        Args:
          members: as many as the sweep was made for; default those.

        Returns:
          `(state, frozen)`, the first two arguments of the step. Every array has a leading axis of
          members, but for those of the frozen params.

        Raises:
          ValueError: a member does not fit this program.
        """
        members = self.members if members is None else tuple(members)
        check_members(members)
        if (count := len(self.members)) != len(members):
            raise ValueError(f"this sweep was made for {count} members, not for {len(members)}")
        settled, labels = settle_all([*self.members, *members], self.labels)
        if jax.tree.leaves(labels) != jax.tree.leaves(self.labels):
            raise ValueError("optimizer.lora_plus: no member had it when this sweep was made")
        program = self._program
        data = different_data(members)
        filled = [
            program.fill(solo, own, data.index(solo.member.data))
            for solo, own in zip(self.solo(members), settled[count:], strict=True)
        ]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
        # Params that train are among what is stacked; the others are there once.
        variables = {**stacked, "params": join(stacked["params"], program.params)}
        trainable, frozen = split(variables, self.labels)
        frozen = jax.device_put(frozen, self.shardings and self.shardings.frozen)
        keys = jnp.stack([jax.random.key(member.seed) for member in members])
        optimizer = assemble(program.config, self.labels, self.steps)

        def begin(trainable: PyTree, keys: Array) -> TrainState:
            state = jax.vmap(optimizer.init)(trainable)
            inner = SweepState(state, jnp.zeros(count, jnp.int32))
            return TrainState(jnp.zeros((), jnp.int32), trainable, inner, jnp.copy(keys))

        where = None if self.shardings is None else self.shardings.state
        return jax.jit(begin, out_shardings=where)(trainable, keys), frozen

    def solo(self, members: Sequence[Member] | None = None) -> list[Solo]:
        """Each member as a run of its own.

        Raises:
          ValueError: a member does not fit this program.
        """
        members = self.members if members is None else members
        return solo_runs(members, self._program.joint, self._program.init)

    def outputs(self, function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Compiles what a function returns for each member, for evaluation.

        Args:
          function: `function(variables, batch)`, with the variables of one member.

        Returns:
          `outputs(variables, batch, index=None)`, of the variables of all members, as `train` hands
          them to `evaluate`, and one batch for all. Results have a leading axis of members, or of
          those whose numbers are in `index`.
        """

        def apply(variables: PyTree, batch: PyTree, index: Array | None = None) -> PyTree:
            own, shared = self._program.separate(variables)
            if index is not None:
                own = jax.tree.map(lambda x: x[index], own)
            one = lambda own: function(without_settings(join(own, shared)), batch)
            return self._program.map(one, own)

        return jax.jit(apply)

    def unpad(self, variables: PyTree, members: Sequence[Member] | None = None) -> list[Any]:
        """Takes the variables of all members apart.

        Args:
          variables: of all members, as `train` hands them to `evaluate`.
          members: whose they are; default those that the sweep was made for.

        Returns:
          The variables of each member alone, which fit its own function (`solo`).
        """
        own, shared = self._program.separate(variables)
        own = jax.device_get(own)
        found = []
        for i, solo in enumerate(self.solo(members)):
            mine = jax.tree.map(lambda x, i=i: x[i], own)
            cropped = jax.tree.map(jnp.asarray, crop(mine, solo.shapes))
            found.append({"params": join(mine["params"], shared["params"]), **cropped})
        return found


def make_sweep(
    function: Callable[..., Any],
    params: PyTree,
    *args: Any,
    members: Sequence[Member],
    steps: int,
    init: InitMember,
    loss: Callable[[Lifted | None], LossFn],
    rules: Sequence[Rule] | None = None,
    ranks: Ranks = None,
    chunk: int | None = None,
    micro_batches: int = 1,
    on_divergence: str = "stop",
    mesh: Mesh | None = None,
    **kwargs: Any,
) -> Sweep:
    """Makes one program of many runs over one frozen base. Nothing is compiled yet.

    Args:
      function: as `lora.lift` takes it: `function(params, *args, **kwargs)`.
      params: the base.
      *args: example arguments, arrays or shapes.
      members: the runs. They may differ in all that `Member` says, but for fields of their
        optimisers other than learning rates, multipliers, weight decays and LoRA+'s ratio.
      steps: length of every run.
      init: `init(member, lifted, key)`, the variables with which a member starts alone:
        `{"params": ..., "adapter": ..., "head": ...}`. `lifted` is its own function, None if it has
        no targets, and `key` is `jax.random.key(member.seed)`.
      loss: `loss(lifted)`, the loss function of variables, batch and key, as `make_step` takes it.
        `lifted` is the function of all members. Where their `outputs` differ, the variables hold
        `classes`, a member's own number, and the loss has to leave the others out.
      rules: which variables train, as for `label`; default the adapter and all else but the params.
      ranks: ranks to leave room for, for all weights or by patterns, so that members of other ranks
        and targets can use the same program later.
      chunk: members that a device computes at a time, so that activations are those of so many; 0
        for all of its own at once. Default 1 on CPU, where arrays that stay in the caches are
        faster, and 0 elsewhere.
      micro_batches: as for `make_step`.
      on_divergence: what becomes of a member whose loss or gradient is not finite, or whose loss
        leaps (`optimizer.spike`): it `stop`s, or `skip`s the step. The others go on.
      mesh: devices; the axis of members is split along `data`.
      **kwargs: example keyword arguments of `function`.

    Returns:
      The sweep, for `train_sweep`.

    Raises:
      ValueError: members that cannot share a program; the field and two of them are named.
    """
    members = tuple(members)
    check_members(members)
    if chunk is None:
        chunk = 1 if jax.default_backend() == "cpu" else 0
    _check_counts(len(members), steps, chunk, micro_batches, on_divergence, mesh)
    joint = lift_all(function, params, args, kwargs, members, ranks)
    solos = solo_runs(members, joint, init)
    shapes = filled_shapes(solos, joint)
    labels = _label({"params": params, **shapes}, rules, joint)
    settled, labels = settle_all(members, labels)
    check_padding(settled[0], padded_arrays(solos, shapes))
    if len({member.outputs for member in members}) > 1:
        labels[CLASSES] = FROZEN
    unequal = joint.unequal(members)
    added = settings(settled[0], dict.fromkeys(unequal, 1.0), 0)
    labels[SETTINGS] = jax.tree.map(lambda _: FROZEN, added)
    program = Program(params, init, joint, shapes, settled[0], labels, unequal, chunk, mesh)
    shardings = None if mesh is None else _shardings(mesh, program)
    one = program.one_step(loss(joint.lifted), steps, micro_batches)
    step = _joint_step(program, one, on_divergence == "stop")
    where: dict[str, Any] = {}
    if shardings is not None:
        where["in_shardings"] = (shardings.state, shardings.frozen, shardings.batch)
        where["out_shardings"] = (shardings.state, shardings.state.step)
    compiled = jax.jit(step, donate_argnames="state", **where)
    return Sweep(members, joint.lifted, steps, compiled, labels, shardings, program)


def different_data(members: Sequence[Member]) -> list[tuple[str, int]]:
    """The different pairs of a task and the seed of its batches, in the order of the members."""
    return list(dict.fromkeys(member.data for member in members))


def _joint_step(program: Program, one: OneStep, stops: bool) -> StepFn:
    """The step of all members. A member that diverged is left as it was from then on."""

    def step(
        state: TrainState, frozen: PyTree, batch: PyTree
    ) -> tuple[TrainState, dict[str, Array]]:
        before, diverged = state.opt_state
        own, shared = program.separate(frozen)

        def member(of: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
            trainable, opt_state, key, mine = of
            rows = jax.tree.map(lambda x: _pick(x, mine[SETTINGS]["data"]), batch)
            start = TrainState(state.step, trainable, opt_state, key)
            end, metrics = one(start, join(mine, shared), rows)
            return end.trainable, end.opt_state, metrics

        arrays = state.trainable, before, state.key, own
        trainable, after, metrics = program.map(member, arrays)
        skipped = metrics.pop("skipped")
        sound = (skipped == before.skipped) & jnp.isfinite(metrics["loss"])
        if stops:
            alive = diverged == 0
            keep = lambda new, old: jnp.where(_over(alive, new), new, old)
            trainable = jax.tree.map(keep, trainable, state.trainable)
            after = jax.tree.map(keep, after, before)
            diverged = jnp.where(alive & ~sound, state.step + 1, diverged)
            sound &= alive
        end = TrainState(state.step + 1, trainable, SweepState(after, diverged), state.key)
        if program.mesh is not None:  # at once, and not each member's numbers by themselves
            everywhere = NamedSharding(program.mesh, PartitionSpec())
            metrics = jax.lax.with_sharding_constraint(metrics, everywhere)
        return end, _report(metrics, sound)

    return step


def _report(metrics: dict[str, Array], sound: Array) -> dict[str, Array]:
    """The means over the members whose step was sound, and each member's own metrics."""
    count = jnp.maximum(sound.sum(), 1)
    report = {
        name: jnp.where(sound, metrics[name], 0).sum() / count
        for name in ("loss", "grad_norm", "lr")
    }
    each = {
        f"{name}/{i}": value for name, values in metrics.items() for i, value in enumerate(values)
    }
    return {**report, "members": sound.sum(), **each}


def _pick(x: Array, index: Array) -> Array:
    return x[0] if len(x) == 1 else x[index]


def _over(alive: Array, x: Array) -> Array:
    return alive.reshape(-1, *[1] * (x.ndim - 1))


def _label(variables: PyTree, rules: Sequence[Rule] | None, joint: JointLift) -> PyTree:
    """The labels of one member's variables; by default all but the params trains."""
    if rules is None:
        known = dict(LORA)
        rules = [(f"{name}/.*", known.get(f"{name}/.*", name)) for name in variables]
    frozen = [] if joint.lifted is None else joint.lifted.frozen
    return label(variables, rules, frozen)


def _shardings(mesh: Mesh, program: Program) -> Shardings:
    """Everything of a member on the device that computes it; the base as it is, or everywhere."""
    everywhere, members = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, MEMBERS)

    def base(x: Any) -> NamedSharding:
        where = getattr(x, "sharding", None)
        return where if isinstance(where, NamedSharding) and where.mesh == mesh else everywhere

    places = jax.tree.map(lambda _: members, dict(program.labels))
    frozen_params = jax.tree.map(
        lambda x, name: base(x) if name == FROZEN else members,
        program.params,
        program.labels["params"],
    )
    _, frozen = split({**places, "params": frozen_params}, program.labels)
    state: Any = TrainState(everywhere, members, members, members)  # type: ignore[arg-type]
    return Shardings(state, frozen, NamedSharding(mesh, PartitionSpec(None, "fsdp")))


def _check_counts(
    members: int, steps: int, chunk: int, micro_batches: int, on_divergence: str, mesh: Mesh | None
) -> None:
    if steps < 1:
        raise ValueError(f"steps = {steps}: at least 1 is needed")
    if chunk < 0 or micro_batches < 1:
        raise ValueError(
            f"chunk = {chunk} and micro_batches = {micro_batches}: 0 or more, 1 or more"
        )
    if on_divergence not in ("stop", "skip"):
        raise ValueError(f"on_divergence = {on_divergence!r}: 'stop' or 'skip'")
    if mesh is None:
        return
    if jax.process_count() > 1:
        raise ValueError("a sweep runs in one process: give each process members of its own")
    if members % (devices := mesh.shape["data"]):
        below = members // devices * devices
        raise ValueError(
            f"{members} members do not divide by mesh.data = {devices}; "
            f"{f'{below} or ' if below else ''}{below + devices} would"
        )
    of_each = members // devices
    if chunk and of_each % min(chunk, of_each):
        raise ValueError(f"chunk = {chunk} does not divide the {of_each} members of each device")
