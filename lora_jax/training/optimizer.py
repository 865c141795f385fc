"""The optimiser: one schedule for the run, one set of settings for each label.

    step:  clip(all gradients) -> per label: rule, decoupled weight decay, multiplier -> schedule

The settings come from a config (any mapping; `ml_collections.ConfigDict` is one):

    optimizer.name = "adamw"
    optimizer.learning_rate = 1e-3
    optimizer.schedule = "linear"
    optimizer.warmup = 0.06
    optimizer.groups.head.multiplier = 10.0    the head learns ten times faster
    optimizer.lora_plus = 16.0                 B learns sixteen times faster than A
    optimizer.no_decay = ("bias", ".*norm", "m")
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import optax
from jaxtyping import PyTree

from lora_jax.lifting import path_name
from lora_jax.nearest import name_nearest
from lora_jax.training.average import track_average
from lora_jax.training.guard import guard
from lora_jax.training.identity import Config, as_json
from lora_jax.training.labels import FROZEN, lora_plus
from lora_jax.training.rules import RULES, make_rule
from lora_jax.training.schedule import SCHEDULES, ScheduleConfig, build_schedule


class Optimizer(NamedTuple):
    """An Optax transformation, with the schedule it follows so that the step can report it."""

    init: optax.TransformInitFn
    update: optax.TransformUpdateExtraArgsFn
    schedule: optax.Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Settings that may differ from label to label.

    Attributes:
      name: `adamw`, `adam`, `adafactor`, `lion`, `sgd` or `muon`.
      multiplier: of the learning rate. In `groups`, `learning_rate` may stand instead of it.
      weight_decay: decoupled, in units of the learning rate.
      b1: decay of the first moment; the momentum of `sgd` (0.9). None: Optax's own value.
      b2: decay of the second moment. None: Optax's own value.
      eps: added to the root of the second moment. None: Optax's own value.
      options: more arguments of the rule, by their names in Optax, such as `mu_dtype`.
    """

    name: str = "adamw"
    multiplier: float | jax.Array = 1.0
    weight_decay: float | jax.Array = 0.0
    b1: float | None = None
    b2: float | None = None
    eps: float | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Group, ScheduleConfig):
    """Settings of the whole run: these, the schedule's, and `Group`'s for labels without their own.

    Attributes:
      clip: global norm of the gradient over all that trains; `None` for no clipping.
      no_decay: arrays whose weights do not decay: regexes for whole parts of their paths, such as
        `bias`, `.*norm` and `m`, DoRA's magnitudes.
      lora_plus: how much faster B learns than A (`labels.lora_plus`); 0 for LoRA.
      ema: decay of the moving average of what trains (`average`); 0 for none.
      spike: a step whose loss exceeds the running median this many times over is not made
        (`guard`); 0 for any finite loss.
      groups: label -> fields of `Group` that differ there.
    """

    clip: float | None = 1.0
    no_decay: Sequence[str] = ()
    lora_plus: float = 0.0
    ema: float = 0.0
    spike: float = 0.0
    groups: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


PACE = {"learning_rate", "multiplier"}  # fields of a group of which one says it all

T = TypeVar("T")
G = TypeVar("G", bound=Group)


def make_schedule(
    config: Config, steps: int, tokens_per_step: float | None = None
) -> optax.Schedule:
    """Builds the learning rate as a function of the step: warm-up from 0, then decay.

    Args:
      config: fields of `OptimizerConfig`.
      steps: length of the run.
      tokens_per_step: tokens of a batch, for `warmup_tokens`.

    Returns:
      An Optax schedule. With a warm-up of n steps, step n is the first at the peak.

    Raises:
      ValueError: an unknown field or name, or a warm-up longer than the run.

    Example:
      >>> schedule = make_schedule({"learning_rate": 1.0, "warmup": 2}, steps=10)
      >>> [float(schedule(step)) for step in (0, 1, 2, 6, 10)]
      [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    parsed = _parse(OptimizerConfig, as_json(config), "optimizer")
    _check_choice(SCHEDULES, parsed.schedule, "optimizer.schedule")
    return build_schedule(parsed, steps, tokens_per_step)


def make_optimizer(
    config: Config, labels: PyTree, steps: int, tokens_per_step: float | None = None
) -> Optimizer:
    """Builds the optimiser of the arrays that train.

    Args:
      config: fields of `OptimizerConfig`; `groups` overrides fields of `Group` by label.
      labels: the label tree of `labels.label`. Frozen arrays get no state.
      steps: length of the run, for the schedule.
      tokens_per_step: tokens of a batch, for `warmup_tokens`.

    Returns:
      An `Optimizer` for the trainable part of `labels.split`. Its `update` takes the loss as
      `value`; a step whose loss or gradient is not finite changes nothing (`guard`).

    Raises:
      ValueError: an unknown field, name or label, or nothing to train.

    Example:
      >>> labels = {"params": {"w": FROZEN}, "head": {"w": "head"}}
      >>> optimizer = make_optimizer({"learning_rate": 0.1, "schedule": "constant"}, labels, 10)
      >>> import jax.numpy as jnp
      >>> state = optimizer.init({"params": {"w": None}, "head": {"w": jnp.ones(3)}})
      >>> sorted(x.shape for x in jax.tree.leaves(state))
      [(), (), (), (3,), (3,)]
    """
    settled, labels = settle(config, labels)
    return assemble(settled, labels, steps, tokens_per_step)


def settle(config: Config, labels: PyTree) -> tuple[OptimizerConfig, PyTree]:
    """Works out the settings of every label that trains, with those of LoRA+.

    Args:
      config: as for `make_optimizer`.
      labels: the label tree of `labels.label`.

    Returns:
      The settings, with a whole group for each label, and the labels, B's being apart in LoRA+.

    Raises:
      ValueError: as `make_optimizer`.
    """
    parsed = _parse(OptimizerConfig, as_json(config), "optimizer")
    _check_choice(SCHEDULES, parsed.schedule, "optimizer.schedule")
    if parsed.lora_plus:
        labels, faster = lora_plus(labels, parsed.lora_plus)
        parsed = _with_groups_of_lora_plus(parsed, faster)
    trained = sorted(set(jax.tree.leaves(labels)) - {FROZEN})
    if not trained:
        raise ValueError("every array is frozen: no rule of the labels names something to train")
    for name in parsed.groups:
        if name not in trained:
            raise ValueError(
                f"optimizer.groups.{name}: no such label; labels that train: {trained}"
            )
    groups = {name: vars(_group(parsed, name)) for name in trained}
    return dataclasses.replace(parsed, groups=groups), labels


def assemble(
    config: OptimizerConfig, labels: PyTree, steps: int, tokens_per_step: float | None = None
) -> Optimizer:
    """Builds an optimiser from what `settle` returns; see `make_optimizer`.

    Learning rate, multipliers and weight decays may be arrays without axes, also within `jax.vmap`.
    """
    schedule = build_schedule(config, steps, tokens_per_step)
    decayed = _decayed(labels, config.no_decay)
    groups = {name: _group_transform(Group(**own), decayed) for name, own in config.groups.items()}
    trainable_labels = jax.tree.map(lambda name: None if name == FROZEN else name, labels)
    transform = optax.chain(
        optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip),
        optax.partition(groups, trainable_labels),
        optax.scale_by_learning_rate(schedule),
        track_average(config.ema) if config.ema else optax.identity(),
    )
    guarded = guard(transform, config.spike)
    return Optimizer(guarded.init, guarded.update, schedule)


def _group(config: OptimizerConfig, name: str) -> Group:
    where = f"optimizer.groups.{name}"
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(Group)}
    own = dict(config.groups.get(name, {}))
    if "learning_rate" in own:
        if own.keys() >= PACE:
            raise ValueError(f"{where} has a learning_rate and a multiplier: one says it all")
        own["multiplier"] = own.pop("learning_rate") / config.learning_rate
    if own.get("name", config.name) != config.name:
        # Moments and options of one rule mean nothing to another.
        shared = {f: shared[f] for f in ("multiplier", "weight_decay")}
    return _parse(Group, {**shared, **own}, where)


def _group_transform(group: Group, decayed: PyTree) -> optax.GradientTransformation:
    _check_choice(RULES, group.name, "optimizer.name")
    if group.name == "adam" and group.weight_decay:
        raise ValueError(
            f"optimizer.weight_decay = {group.weight_decay}: adam has none; choose adamw, or 0"
        )
    moments = {name: getattr(group, name) for name in ("b1", "b2", "eps")}
    given = {name: value for name, value in moments.items() if value is not None}
    # Decoupled: scaled by the learning rate, not by Adam (Loshchilov & Hutter, 2019).
    return optax.chain(
        make_rule(group.name, {**given, **group.options}),
        optax.add_decayed_weights(group.weight_decay, mask=decayed),
        optax.scale(group.multiplier),
    )


def _with_groups_of_lora_plus(
    config: OptimizerConfig, faster: Mapping[str, Mapping[str, float]]
) -> OptimizerConfig:
    """Gives B the settings of A but for its pace, unless the config has some for B itself."""
    groups = dict(config.groups)
    for name, settings in faster.items():
        own = config.groups.get(name, {})
        inherited = {k: v for k, v in config.groups.get("adapter", {}).items() if k not in PACE}
        if not PACE & own.keys():
            pace = _group(config, "adapter").multiplier * settings["multiplier"]
            inherited["multiplier"] = pace
        groups[name] = {**inherited, **own}
    return dataclasses.replace(config, groups=groups)


def _decayed(labels: PyTree, no_decay: Sequence[str]) -> PyTree:
    """Says of each trainable array whether its weights decay; `None` if all do."""
    if not no_decay:
        return None
    named = [path_name(path) for path, name in jax.tree.leaves_with_path(labels) if name != FROZEN]
    for regex in no_decay:
        if not any(_has_part(path, regex) for path in named):
            parts = sorted({part for path in named for part in path.split("/")})
            raise ValueError(
                f"optimizer.no_decay: {regex!r} is part of no path that trains; nearest parts: "
                f"{name_nearest(regex, parts)}"
            )

    def decays(path: tuple, name: str) -> bool | None:
        if name == FROZEN:
            return None
        return not any(_has_part(path_name(path), regex) for regex in no_decay)

    return jax.tree.map_with_path(decays, labels)


def _has_part(path: str, regex: str) -> bool:
    return any(re.fullmatch(regex, part) for part in path.split("/"))


def _parse(kind: type[G], config: Mapping[str, Any], where: str) -> G:
    fields = [field.name for field in dataclasses.fields(kind)]
    for name in config:
        if name not in fields:
            near = name_nearest(name, fields)
            raise ValueError(f"{where} has no field {name!r}; nearest: {near}")
    return kind(**config)


def _check_choice(choices: Mapping[str, T], name: str, where: str) -> None:
    if name not in choices:
        raise ValueError(f"{where} = {name!r} is unknown; choices: {', '.join(choices)}")
