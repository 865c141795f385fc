"""The learning rate as a function of the step: warm-up from zero, then decay.

Lengths are whole numbers of steps from 1 on, and fractions of the run below 1: a warm-up of 0.06
is 6 % of the run, one of 100 is 100 steps.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import optax
from jax import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Settings of the learning rate.

    Attributes:
      learning_rate: the peak.
      schedule: `linear` or `cosine`, down to the last step; `wsd`, at the peak until the last
        `decay` steps; or `constant`.
      warmup: from zero to the peak: steps, or below 1 a fraction of the run.
      warmup_tokens: the same in tokens, instead of `warmup` if above 0.
      decay: length of the descent of `wsd`: steps, or below 1 a fraction of the run.
      final: where the schedule ends, as a fraction of the peak.
    """

    learning_rate: float | Array = 1e-3
    schedule: str = "linear"
    warmup: int | float = 0.06
    warmup_tokens: int = 0
    decay: int | float = 0.1
    final: float = 0.0


def warmup_stable_decay(config: ScheduleConfig, steps: int) -> optax.Schedule:
    """The peak until the last `decay` steps, then a line down: arXiv 2404.06395, section 4."""
    decay = count_steps(config.decay, steps, "optimizer.decay")
    peak = config.learning_rate
    down = optax.linear_schedule(peak, config.final * peak, decay)
    return optax.join_schedules([optax.constant_schedule(peak), down], [steps - decay])


# What follows the warm-up, in `steps` steps.
SCHEDULES: Mapping[str, Callable[[ScheduleConfig, int], optax.Schedule]] = {
    "linear": lambda c, steps: optax.linear_schedule(
        c.learning_rate, c.final * c.learning_rate, steps
    ),
    "cosine": lambda c, steps: optax.cosine_decay_schedule(c.learning_rate, steps, alpha=c.final),
    "constant": lambda c, _: optax.constant_schedule(c.learning_rate),
    "wsd": warmup_stable_decay,
}


def build_schedule(
    config: ScheduleConfig, steps: int, tokens_per_step: float | None = None
) -> optax.Schedule:
    """Joins the warm-up and what follows it.

    Args:
      config: `schedule` is a key of `SCHEDULES`.
      steps: length of the run.
      tokens_per_step: tokens of a batch, for a warm-up that is given in tokens.

    Returns:
      An Optax schedule. With a warm-up of n steps, step n is the first at the peak.

    Raises:
      ValueError: a warm-up or a decay longer than the run, or a warm-up in tokens where nobody
        knows how many a step has.
    """
    warmup = _warmup_steps(config, steps, tokens_per_step)
    after = SCHEDULES[config.schedule](config, steps - warmup)
    if not warmup:
        return after
    ramp = optax.linear_schedule(0.0, config.learning_rate, warmup)
    return optax.join_schedules([ramp, after], [warmup])


def count_steps(length: int | float, steps: int, where: str) -> int:
    """Turns a length into steps: from 1 on it counts them, below it is a fraction of the run.

    Example:
      >>> count_steps(0.06, 1000, "warmup"), count_steps(100, 1000, "warmup")
      (60, 100)
    """
    if length >= 1 and length != int(length):
        raise ValueError(f"{where} = {length}: steps are whole, and fractions of a run below 1")
    count = int(length) if length >= 1 else round(length * steps)
    if not 0 <= count < steps:
        raise ValueError(f"{where} = {length} is {count} steps, of a run of {steps}")
    return count


def _warmup_steps(config: ScheduleConfig, steps: int, tokens_per_step: float | None) -> int:
    if not config.warmup_tokens:
        return count_steps(config.warmup, steps, "optimizer.warmup")
    if not tokens_per_step:
        raise ValueError("optimizer.warmup_tokens: nothing said how many tokens a step has")
    count = math.ceil(config.warmup_tokens / tokens_per_step)
    where = f"optimizer.warmup_tokens = {config.warmup_tokens:,}, of {tokens_per_step:,.0f} a step:"
    return count_steps(count, steps, where)
