"""AdaLoRA's ranks: which of all ranks of all weights are kept, as a budget shrinks.

Zhang et al., arXiv 2303.10512, sections 3.2 and 3.3: the importance of a rank is the smoothed
sensitivity |p · ∇p| times its uncertainty (equations 8 to 11), summed over the rank's value and the
means of its two vectors; the budget falls with the cube of the time left (equation 12).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.methods.adalora import Factors, of_adalora


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How many ranks are kept, over a run.

    Attributes:
      total_steps: updates of the run.
      target_rank: the mean rank of a weight at the end.
      warmup: updates before the first rank is dropped.
      final: updates at the end in which the choice is fixed.
      every: updates from one choice to the next.
      beta1: decay of the sensitivity.
      beta2: decay of its uncertainty.
    """

    total_steps: int
    target_rank: int = 8
    warmup: int = 0
    final: int = 0
    every: int = 1
    beta1: float = 0.85
    beta2: float = 0.85

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.total_steps - self.final:
            raise ValueError(
                f"warmup = {self.warmup} and final = {self.final} leave none of the "
                f"{self.total_steps} steps to choose ranks in"
            )
        if self.every < 1 or self.target_rank < 1:
            raise ValueError("every and target_rank must be at least 1")
        if not (0 < self.beta1 < 1 and 0 < self.beta2 < 1):
            raise ValueError(f"beta1 and beta2 lie in (0, 1), not {self.beta1}, {self.beta2}")

    def ranks(self, first: int, last: int) -> np.ndarray:
        """The number of ranks kept after each step, from `first` in all to `last`; int [steps]."""
        step = np.arange(self.total_steps + 1)
        left = 1 - (step - self.warmup) / (self.total_steps - self.final - self.warmup)
        falling = ((first - last) * np.clip(left, 0, 1) ** 3 + last).astype(int)
        return np.where(step <= self.warmup, first, falling)


class Allocation(NamedTuple):
    """What allocation remembers: running means by path and array, and which ranks are kept."""

    sensitivity: Mapping[str, Mapping[str, jax.Array]]
    uncertainty: Mapping[str, Mapping[str, jax.Array]]
    kept: Mapping[str, jax.Array]


def init_allocation(factors: Factors) -> Allocation:
    """The state before the first step: nothing known, all ranks kept."""
    own = of_adalora(factors)
    zeros = jax.tree.map(jnp.zeros_like, {path: dict(arrays) for path, arrays in own.items()})
    kept = {path: jnp.ones(arrays["e"].shape, bool) for path, arrays in own.items()}
    return Allocation(zeros, zeros, kept)


def allocate(
    budget: Budget, state: Allocation, factors: Factors, gradients: Factors, step: Any
) -> tuple[Allocation, dict[str, dict[str, Any]]]:
    """After an update: learns what matters, and sets the values of dropped ranks to zero.

    Pure, and may be compiled with the step; equal to PEFT's `RankAllocator` over a run.

    Args:
      budget: of the run.
      state: from `init_allocation` or the last call.
      factors: after the update of this step.
      gradients: of this step, of the same structure.
      step: int, as PEFT counts: from the number given to its `update_and_allocate`.

    Returns:
      The new state, and the factors with their values masked.
    """
    own = of_adalora(factors)
    last = budget.total_steps - budget.final
    learning = step < last
    learned = _smoothed(budget, state, own, gradients)
    state = jax.tree.map(lambda new, old: jnp.where(learning, new, old), learned, state)
    choosing = (step > budget.warmup) & (step <= last)
    choosing &= (step % budget.every == 0) | (step == last)
    kept = {
        path: jnp.where(choosing, chosen, state.kept[path])
        for path, chosen in _chosen(budget, state, own, step).items()
    }
    # Between two choices a value that was dropped trains on, and may be kept by the next.
    masking = choosing | (step > last)
    values = {path: own[path]["e"] * jnp.where(masking, kept[path], True) for path in own}
    masked = {
        path: {**arrays, "e": values[path]} if path in own else dict(arrays)
        for path, arrays in factors.items()
    }
    return state._replace(kept=kept), masked


def drop_ranks(kept: Mapping[str, Any], factors: Factors) -> dict[str, dict[str, Any]]:
    """After the last choice: sets the vectors of dropped ranks to zero, as well as their values.

    ΔW is what it was, and no gradient moves such a rank again; PEFT's files leave it out.

    Args:
      kept: which ranks are kept, by path: `Allocation.kept`.
      factors: after the last `allocate`.

    Returns:
      The factors; those that `kept` does not name are as they were.

    >>> arrays = {"a": jnp.ones((4, 2)), "e": jnp.ones(2), "b": jnp.ones((2, 3))}
    >>> drop_ranks({"w": jnp.array([True, False])}, {"w": arrays})["w"]["b"].sum(-1).tolist()
    [3.0, 0.0]
    """
    dropped = {path: dict(arrays) for path, arrays in factors.items()}
    for path, mask in kept.items():
        a, e, b = (factors[path][name] for name in "aeb")
        batch = mask.ndim - 1
        inner = mask.reshape(*mask.shape[:-1], *[1] * (a.ndim - batch - 1), mask.shape[-1])
        outer = mask.reshape(*mask.shape, *[1] * (b.ndim - batch - 1))
        masks = {"a": (inner, a), "e": (mask, e), "b": (outer, b)}
        dropped[path] |= {name: jnp.where(*pair, 0) for name, pair in masks.items()}
    return dropped


def _smoothed(
    budget: Budget, state: Allocation, factors: Factors, gradients: Factors
) -> Allocation:
    """Equations 8 to 10."""
    moving = lambda beta, old, new: beta * old + (1 - beta) * new
    now = {
        path: {name: jnp.abs(array * gradients[path][name]) for name, array in arrays.items()}
        for path, arrays in factors.items()
    }
    mean = jax.tree.map(lambda old, new: moving(budget.beta1, old, new), state.sensitivity, now)
    spread = jax.tree.map(
        lambda old, new, mean: moving(budget.beta2, old, jnp.abs(new - mean)),
        state.uncertainty,
        now,
        mean,
    )
    return Allocation(mean, spread, state.kept)


def _chosen(budget: Budget, state: Allocation, factors: Factors, step: Any) -> dict[str, jax.Array]:
    """The ranks whose importance is among the highest, as many as the budget allows."""
    scores = {
        path: _importance(jax.tree.map(jnp.multiply, *pair))
        for path in factors
        for pair in [(state.sensitivity[path], state.uncertainty[path])]
    }
    every = jnp.concatenate([score.ravel() for score in scores.values()])
    weights = sum(score.size // score.shape[-1] for score in scores.values())
    ranks = jnp.asarray(budget.ranks(every.size, weights * budget.target_rank))
    dropped = every.size - ranks[jnp.clip(step, 0, budget.total_steps)]
    threshold = jnp.where(dropped > 0, jnp.sort(every)[dropped - 1], -jnp.inf)
    return {path: score > threshold for path, score in scores.items()}


def _importance(scores: Mapping[str, jax.Array]) -> jax.Array:
    """Equation 7: of a rank, from those of its value and of the entries of its two vectors."""
    batch = scores["e"].ndim - 1
    a, b = scores["a"], scores["b"]
    vectors = a.mean(range(batch, a.ndim - 1)) + b.mean(range(batch + 1, b.ndim))
    return scores["e"] + vectors
