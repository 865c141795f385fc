"""The members of a sweep: what each of them trains, and what they must have in common."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lora_jax.lifting import Method
from lora_jax.methods import LoRA
from lora_jax.nearest import name_nearest
from lora_jax.targets import Targets
from lora_jax.training.identity import Config, as_json
from lora_jax.training.optimizer import OptimizerConfig, settle

# Fields of the optimiser that become arrays; those of groups are in `settle`'s groups.
_ARRAYS = {"learning_rate", "multiplier", "weight_decay", "lora_plus", "groups"}
_GROUP_ARRAYS = {"multiplier", "weight_decay"}

# Rules that look at whole arrays: padding would change what they do to the rest.
_WHOLE_ARRAYS = ("adafactor", "muon")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """One run of a sweep, as it would be made alone.

    Attributes:
      name: of the run, unlike all others of the sweep.
      targets: the weights that are adapted, as for `lora.lift`; `()` for none.
      method: how.
      optimizer: the config of its optimiser, as for `make_optimizer`.
      seed: of the factors, of the head, of dropout and, unless `data_seed` says so, of the batches.
      task: what it is trained on.
      outputs: numbers that its head returns, such as the classes of the task; 0 without a head.
      data_seed: of the order of the examples; None for `seed`. Members of one task and one data
        seed share their batches.
      exclude: weights that are not adapted, as for `lora.lift`.
    """

    name: str
    targets: Targets = ()
    method: Method = dataclasses.field(default_factory=LoRA)
    optimizer: Config = dataclasses.field(default_factory=dict)
    seed: int = 0
    task: str = ""
    outputs: int = 0
    data_seed: int | None = None
    exclude: Sequence[str] = ()

    @property
    def data(self) -> tuple[str, int]:
        """The task and the seed of its batches: members that agree in it share them."""
        return self.task, self.seed if self.data_seed is None else self.data_seed

    def describe(self) -> dict[str, Any]:
        """The run in JSON, for the identity of checkpoints."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        method = {"name": type(self.method).__name__, **vars(self.method)}
        return as_json(fields | {"method": method, "optimizer": as_json(self.optimizer)})


def check_members(members: Sequence[Member]) -> None:
    """Raises `ValueError` where there are no members, or two have one name."""
    if not members:
        raise ValueError("a sweep needs at least one member")
    names = [member.name for member in members]
    for name in names:
        if not name or names.count(name) > 1:
            raise ValueError(f"members need names of their own: {name!r} is the name of several")


def by_task(members: Sequence[Member]) -> dict[str, np.ndarray]:
    """The numbers of the members of each task, in order."""
    tasks = np.array([member.task for member in members])
    return {str(task): np.flatnonzero(tasks == task) for task in dict.fromkeys(tasks)}


def settle_all(members: Sequence[Member], labels: Any) -> tuple[list[OptimizerConfig], Any]:
    """Works out the optimiser of every member, and that they can share a program.

    Args:
      members: of the sweep.
      labels: the labels of the variables of all members together.

    Returns:
      The settings of each member, and the labels, with those of LoRA+ if any member has it.

    Raises:
      ValueError: a field differs that is no array of the program; it and two members are named.
    """
    configs = [dict(as_json(member.optimizer)) for member in members]
    if any(config.get("lora_plus") for config in configs):
        # At a ratio of 1 B learns as fast as A, in the groups of LoRA+.
        configs = [config | {"lora_plus": config.get("lora_plus") or 1.0} for config in configs]
    settled, trained = [], labels
    for member, config in zip(members, configs, strict=True):
        try:
            own, trained = settle(config, labels)
        except ValueError as error:
            raise ValueError(f"member {member.name!r}: {error}") from error
        settled.append(own)
    for member, own in zip(members[1:], settled[1:], strict=True):
        _check_same(members[0].name, settled[0], member.name, own)
    return settled, trained


def _check_same(first: str, one: OptimizerConfig, second: str, other: OptimizerConfig) -> None:
    pairs: list[tuple[str, Mapping[str, Any], Mapping[str, Any], set[str]]] = [
        ("optimizer", vars(one), vars(other), _ARRAYS)
    ]
    for label, own in one.groups.items():
        pairs.append((f"optimizer.groups.{label}", own, other.groups[label], _GROUP_ARRAYS))
    for where, own, its, free in pairs:
        for field in own:
            if field not in free and own[field] != its[field]:
                raise ValueError(
                    f"members {first!r} and {second!r} cannot share a program: {where}.{field} is "
                    f"{own[field]!r} and {its[field]!r}. Put them into two sweeps."
                )


def check_padding(settled: OptimizerConfig, padded: Mapping[str, str]) -> None:
    """Raises `ValueError` where an optimiser would not leave padding out of account.

    Args:
      settled: of any member, for the rules are the same for all.
      padded: path of an array that is padded -> the name of a member whose own is smaller.
    """
    rules = {own["name"] for own in settled.groups.values()}
    for rule in _WHOLE_ARRAYS:
        if rule in rules and padded:
            path, name = next(iter(padded.items()))
            raise ValueError(
                f"optimizer.name = {rule!r} looks at whole arrays, and {path} of {name!r} is "
                f"smaller than another member's: give all members the same ranks and outputs, or "
                f"choose adamw"
            )


def make_members(config: Config, **shared: Any) -> list[Member]:
    """Makes members from a config.

    Args:
      config: `grid`, a mapping from fields to sequences of values, all combinations of which are
        made; or `members`, a sequence of mappings from fields to values. A field is one of
        `Member`, of its method (`rank`) or of its optimiser (`learning_rate`, `groups.head.
        multiplier`).
      **shared: fields of `Member` for all: `method`, `optimizer`, `task`, …

    Returns:
      The members. Those without a name are called by what they differ in: `rank=8 seed=0`.

    Raises:
      ValueError: neither or both are given, a field that there is not, or no values for one.

    Example:
      >>> from lora_jax import training
      >>> grid = {"rank": (2, 4), "learning_rate": (0.1,)}
      >>> [m.name for m in training.make_members({"grid": grid}, targets=("q_proj",))]
      ['rank=2 learning_rate=0.1', 'rank=4 learning_rate=0.1']
    """
    grid, listed = config.get("grid"), config.get("members")
    if bool(grid) == bool(listed):
        raise ValueError("a sweep is either a grid or a list of members, and one is needed")
    choices: list[dict[str, Any]] = [dict(each) for each in listed or ()]
    if grid:
        for field, values in grid.items():
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise ValueError(f"grid.{field} = {values!r}: give a sequence of values")
        choices = [dict(zip(grid, each, strict=True)) for each in itertools.product(*grid.values())]
    return [_make_member(choice, shared) for choice in choices]


def _make_member(choice: Mapping[str, Any], shared: Mapping[str, Any]) -> Member:
    fields = {f.name for f in dataclasses.fields(Member)}
    own: dict[str, Any] = {"name": " ".join(f"{k}={_short(v)}" for k, v in choice.items())}
    base = Member(name="?", **shared)
    method_fields: dict[str, Any] = {}
    optimizer = as_json(base.optimizer)
    of_method = [f.name for f in dataclasses.fields(base.method) if f.init]  # type: ignore[arg-type]
    of_optimizer = [f.name for f in dataclasses.fields(OptimizerConfig)]
    for field, value in choice.items():
        if field in fields:
            own[field] = value
        elif field in of_method:
            method_fields[field] = value
        elif field.split(".")[0] in of_optimizer:
            _set(optimizer, field.split("."), value)
        else:
            known = [*sorted(fields), *of_method, *of_optimizer]
            near = name_nearest(field, known)
            raise ValueError(f"a member has no field {field!r}; nearest: {near}")
    method = own.get("method", base.method)
    own |= {"method": dataclasses.replace(method, **method_fields), "optimizer": optimizer}
    return dataclasses.replace(base, **own)


def _set(config: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *groups, field = path
    for group in groups:
        config = config.setdefault(group, {})
    config[field] = value


def _short(value: Any) -> str:
    return "+".join(value) if isinstance(value, list | tuple) else f"{value}"
