"""Trains all members of a sweep, and takes the runs apart again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PyTree
from rich.console import Console

from lora_jax.lifting import Lifted, path_name
from lora_jax.training.checkpoints import DataIterator
from lora_jax.training.labels import join
from lora_jax.training.loop import train
from lora_jax.training.metrics import Row
from lora_jax.training.sweep import Sweep, different_data
from lora_jax.training.sweep_members import Member
from lora_jax.training.workdir import Resume

EvaluateMembers = Callable[[PyTree], Mapping[str, Mapping[str, float]]]


class MemberRun(NamedTuple):
    """What became of one member.

    Attributes:
      member: its description.
      lifted: its own function; None without an adapter.
      variables: with factors and head of its own shapes, as from a run alone.
      rows: its metrics, `{"step", "loss", "grad_norm", "lr", ...}` and those of evaluations, up to
        the step at which it diverged, whose loss is None unless it leapt.
      diverged: that step; None if it did not.
    """

    member: Member
    lifted: Lifted | None
    variables: Any
    rows: list[Row]
    diverged: int | None


class SweepResult(NamedTuple):
    """A finished sweep.

    Attributes:
      runs: by the names of the members.
      rows: metrics of the whole: means over the members, and `seconds` of a step of them all.
    """

    runs: dict[str, MemberRun]
    rows: list[Row]

    @property
    def losses(self) -> Float[np.ndarray, "members steps"]:
        """The loss of each member at each step; NaN from where it diverged on."""
        found = [
            {row["step"]: row["loss"] for row in run.rows if "loss" in row}
            for run in self.runs.values()
        ]
        steps = max((step for losses in found for step in losses), default=0)
        number = lambda value: np.nan if value is None else value
        return np.array(
            [[number(losses.get(step)) for step in range(1, steps + 1)] for losses in found]
        )

    @property
    def diverged(self) -> dict[str, int]:
        """The members that diverged, and at which step."""
        return {name: run.diverged for name, run in self.runs.items() if run.diverged is not None}


class JointBatches:
    """The batches of different members side by side, on a leading axis."""

    def __init__(self, members: Sequence[Member], data: Callable[[Member], DataIterator]) -> None:
        """Opens one iterator for each task and data seed.

        Args:
          members: of a sweep.
          data: makes the iterator of a member, as for a run alone.
        """
        firsts = {member.data: member for member in reversed(members)}
        self._members = [firsts[pair] for pair in different_data(members)]
        self._iterators = [data(member) for member in self._members]

    def __iter__(self) -> JointBatches:
        return self

    def __next__(self) -> PyTree:
        """The next batches.

        Raises:
          ValueError: those of two members differ in names, shapes or types.
        """
        batches = [next(iterator) for iterator in self._iterators]
        first, *others = map(_kinds, batches)
        for member, other in zip(self._members[1:], others, strict=True):
            if other != first:
                differ = sorted(set(first.items()) ^ set(other.items()))
                raise ValueError(
                    f"the batches of {self._members[0].name!r} and {member.name!r} differ, and so "
                    f"cannot share a program: {', '.join(f'{k}: {v}' for k, v in differ)}"
                )
        return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)

    def get_state(self) -> Any:
        """The places of all, in JSON."""
        return [_plain(iterator.get_state()) for iterator in self._iterators]

    def set_state(self, state: Any) -> None:
        """Moves all to their places."""
        for iterator, place in zip(self._iterators, state, strict=True):
            iterator.set_state(place)


def train_sweep(
    sweep: Sweep,
    data: Callable[[Member], DataIterator],
    *,
    members: Sequence[Member] | None = None,
    evaluate: EvaluateMembers | None = None,
    evaluate_every: int = 0,
    workdir: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    checkpoint_every: int = 0,
    resume: Resume = "auto",
    title: str = "",
    console: Console | None = None,
    **options: Any,
) -> SweepResult:
    """Trains all members together, by `training.train`.

    Args:
      sweep: from `make_sweep`.
      data: `data(member)`, an endless iterator of the batches of a member, as for a run alone. It
        is called once for each task and data seed.
      members: other members that fit the program of the sweep; default its own.
      evaluate: `evaluate(variables) -> {name of a member: {metric: value}}`, of the variables of
        all members (`Sweep.outputs`). What it says of members that diverged is left out.
      evaluate_every: steps between evaluations; 0 for only one, at the end.
      workdir: where metrics and checkpoints go, in which the run is resumed; None for no files.
      identity: what the sweep is, beside its members (`describe_run`).
      checkpoint_every: steps between checkpoints; 0 for only one, at the end.
      resume: as for `train`.
      title: what to call the sweep in its progress line.
      console: where progress is shown; default standard output.
      **options: more of `train`'s, such as `sinks` and `keep`.

    Returns:
      The runs of all members.

    Raises:
      ValueError: members that do not fit, batches of different shapes, metrics of unknown members,
        or a workdir of another run.
    """
    members = sweep.members if members is None else tuple(members)
    solos = sweep.solo(members)
    batches = JointBatches(members, data)
    state, frozen = sweep.start(members)
    described = {**(identity or {}), "members": [member.describe() for member in members]}
    names = [member.name for member in members]
    result = train(
        sweep.step,
        state,
        frozen,
        batches,
        steps=sweep.steps,
        workdir=workdir,
        identity=described,
        resume=resume,
        evaluate=None if evaluate is None else lambda v: _flat(evaluate(v), names),
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
        batch_sharding=sweep.shardings and sweep.shardings.batch,
        title=title or f"{len(members)} members",
        console=console,
        **options,
    )
    diverged = [int(step) or None for step in np.asarray(result.state.opt_state.diverged)]
    variables = sweep.unpad(join(result.state.trainable, frozen), members)
    runs = {
        solo.member.name: MemberRun(
            solo.member, solo.lifted, own, _own_rows(result.rows, i, step), step
        )
        for i, (solo, own, step) in enumerate(zip(solos, variables, diverged, strict=True))
    }
    return SweepResult(runs, [_joint_row(row) for row in result.rows])


def _kinds(batch: PyTree) -> dict[str, str]:
    return {
        path_name(path): f"{np.asarray(x).dtype}{list(np.shape(x))}"
        for path, x in jax.tree.leaves_with_path(batch)
    }


def _plain(state: Any) -> Any:
    """The place of an iterator in JSON; Grain's own give theirs in bytes."""
    return json.loads(state) if isinstance(state, bytes) else state


def _flat(found: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> dict[str, float]:
    if unknown := sorted(set(found) - set(names)):
        raise ValueError(f"evaluate returned metrics of {unknown[0]!r}, which is no member")
    return {
        f"{metric}/{names.index(name)}": value
        for name, values in found.items()
        for metric, value in values.items()
    }


def _own_rows(rows: Sequence[Row], index: int, diverged: int | None) -> list[Row]:
    """A member's rows, as a run alone writes them."""
    suffix, found = f"/{index}", []
    for row in rows:
        own = {k.removesuffix(suffix): v for k, v in row.items() if k.endswith(suffix)}
        if own and (diverged is None or row["step"] <= diverged):
            found.append({"step": row["step"], **own})
    return found


def _joint_row(row: Row) -> Row:
    return {name: v for name, v in row.items() if not name.rpartition("/")[2].isdigit()}
