"""The optimiser: one schedule for the run, one set of settings for each label.

    step:  clip(all gradients) -> per label: rule, decoupled weight decay, multiplier -> schedule

The settings come from a config (any mapping; `ml_collections.ConfigDict` is one):

    optimizer.name = "adamw"
    optimizer.learning_rate = 1e-3
    optimizer.schedule = "linear"
    optimizer.warmup = 0.06
    optimizer.groups.head.multiplier = 10.0    the head learns ten times faster
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import optax
from jaxtyping import PyTree

from lora_jax.training.identity import Config, as_json
from lora_jax.training.labels import FROZEN, nearest


class Optimizer(NamedTuple):
    """An Optax transformation, with the schedule it follows so that the step can report it."""

    init: optax.TransformInitFn
    update: optax.TransformUpdateExtraArgsFn
    schedule: optax.Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Settings that may differ from label to label.

    Attributes:
      name: `adamw` or `sgd`.
      multiplier: of the learning rate (LoRA+: 16 for B, 1 for A).
      weight_decay: decoupled, in units of the learning rate.
      b1: decay of the first moment; the momentum of `sgd`.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
    """

    name: str = "adamw"
    multiplier: float = 1.0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Group):
    """Settings of the whole run; those of `Group` are the defaults of every label.

    Attributes:
      learning_rate: the peak.
      schedule: `linear` or `cosine`, to zero at the last step, or `constant`.
      warmup: from zero to the peak, as a fraction of the run; an int counts steps.
      clip: global norm of the gradient over all that trains; `None` for no clipping.
      groups: label -> fields of `Group` that differ there.
    """

    learning_rate: float = 1e-3
    schedule: str = "linear"
    warmup: int | float = 0.06
    clip: float | None = 1.0
    groups: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


SCHEDULES: Mapping[str, Callable[[float, int], optax.Schedule]] = {
    "linear": lambda peak, steps: optax.linear_schedule(peak, 0.0, steps),
    "cosine": optax.cosine_decay_schedule,
    "constant": lambda peak, _: optax.constant_schedule(peak),
}

# The direction of a step, before weight decay and the learning rate.
RULES: Mapping[str, Callable[[Group], optax.GradientTransformation]] = {
    "adamw": lambda g: optax.scale_by_adam(g.b1, g.b2, g.eps),
    "sgd": lambda g: optax.trace(g.b1),
}

T = TypeVar("T")
G = TypeVar("G", bound=Group)


def make_schedule(config: Config, steps: int) -> optax.Schedule:
    """Builds the learning rate as a function of the step: warm-up from 0, then decay.

    Args:
      config: fields of `OptimizerConfig`.
      steps: length of the run.

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
    decay = _choose(SCHEDULES, parsed.schedule, "optimizer.schedule")
    warmup = _warmup_steps(parsed.warmup, steps)
    after = decay(parsed.learning_rate, steps - warmup)
    if not warmup:
        return after
    ramp = optax.linear_schedule(0.0, parsed.learning_rate, warmup)
    return optax.join_schedules([ramp, after], [warmup])


def make_optimizer(config: Config, labels: PyTree, steps: int) -> Optimizer:
    """Builds the optimiser of the arrays that train.

    Args:
      config: fields of `OptimizerConfig`; `groups` overrides fields of `Group` by label.
      labels: the label tree of `labels.label`. Frozen arrays get no state.
      steps: length of the run, for the schedule.

    Returns:
      An `Optimizer` for the trainable part of `labels.split`.

    Raises:
      ValueError: an unknown field, name or label, or nothing to train.

    Example:
      >>> labels = {"params": {"w": FROZEN}, "head": {"w": "head"}}
      >>> optimizer = make_optimizer({"learning_rate": 0.1, "schedule": "constant"}, labels, 10)
      >>> import jax.numpy as jnp
      >>> state = optimizer.init({"params": {"w": None}, "head": {"w": jnp.ones(3)}})
      >>> sorted(x.shape for x in jax.tree.leaves(state))
      [(), (), (3,), (3,)]
    """
    parsed = _parse(OptimizerConfig, as_json(config), "optimizer")
    schedule = make_schedule(config, steps)
    trained = sorted(set(jax.tree.leaves(labels)) - {FROZEN})
    if not trained:
        raise ValueError("every array is frozen: no rule of the labels names something to train")
    for name in parsed.groups:
        if name not in trained:
            raise ValueError(
                f"optimizer.groups.{name}: no such label; labels that train: {trained}"
            )
    groups = {name: _group_transform(_group(parsed, name)) for name in trained}
    trainable_labels = jax.tree.map(lambda name: None if name == FROZEN else name, labels)
    transform = optax.chain(
        optax.identity() if parsed.clip is None else optax.clip_by_global_norm(parsed.clip),
        optax.partition(groups, trainable_labels),
        optax.scale_by_learning_rate(schedule),
    )
    return Optimizer(transform.init, transform.update, schedule)


def _group(config: OptimizerConfig, name: str) -> Group:
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(Group)}
    own = config.groups.get(name, {})
    return _parse(Group, {**shared, **own}, f"optimizer.groups.{name}")


def _group_transform(group: Group) -> optax.GradientTransformation:
    rule = _choose(RULES, group.name, "optimizer.name")
    # Decoupled: scaled by the learning rate, not by Adam (Loshchilov & Hutter, 2019).
    return optax.chain(
        rule(group),
        optax.add_decayed_weights(group.weight_decay),
        optax.scale(group.multiplier),
    )


def _warmup_steps(warmup: int | float, steps: int) -> int:
    count = warmup if isinstance(warmup, int) else round(warmup * steps)
    if not 0 <= count < steps:
        raise ValueError(f"optimizer.warmup = {warmup} is {count} steps, of a run of {steps}")
    return count


def _parse(kind: type[G], config: Mapping[str, Any], where: str) -> G:
    fields = [field.name for field in dataclasses.fields(kind)]
    for name in config:
        if name not in fields:
            raise ValueError(f"{where} has no field {name!r}; nearest: {nearest(name, fields)}")
    return kind(**config)


def _choose(choices: Mapping[str, T], name: str, where: str) -> T:
    if name not in choices:
        raise ValueError(f"{where} = {name!r} is unknown; choices: {', '.join(choices)}")
    return choices[name]
