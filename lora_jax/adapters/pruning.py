"""Merging tensors of several tasks: task arithmetic, TIES, DARE, magnitude pruning.

TIES: Yadav et al., arXiv 2306.01708, section 3. DARE: Yu et al., arXiv 2311.03099, section 3.2.
Each function takes the tensors of one matrix of each task, stacked: ``(tasks, rows, columns)``.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Majority = Literal["total", "frequency"]
Tasks = Float[Array, "tasks rows columns"]
Weights = Float[Array, " tasks"]


def weighted_sum(tasks: Tasks, weights: Weights) -> Float[Array, "rows columns"]:
    """Task arithmetic: ``Σ wₜ Tₜ``."""
    return (weights[:, None, None] * tasks).sum(axis=0)


def agreed_mean(tasks: Tasks, weights: Weights, majority: Majority) -> Float[Array, "rows columns"]:
    """TIES after its trimming: the mean of each entry over the tasks that have its elected sign.

    Args:
      tasks: trimmed.
      weights: multiply the tasks after the election, as in PEFT.
      majority: the sign is that of the ``"total"`` of entries, or of the larger number of tasks
        (``"frequency"``); positive where they balance.
    """
    signs = jnp.sign(tasks)
    votes = (tasks if majority == "total" else signs).sum(axis=0)
    agree = signs == jnp.where(votes >= 0, 1.0, -1.0)
    total = weighted_sum(jnp.where(agree, tasks, 0.0), weights)
    return total / jnp.maximum(agree.sum(axis=0), 1)


def keep_largest(tasks: Tasks, density: float) -> Tasks:
    """Each task's entries that are largest in size, ``int(density · entries)`` of them."""
    if density >= 1.0:
        return tasks
    flat = tasks.reshape(tasks.shape[0], -1)
    _, kept = lax.top_k(jnp.abs(flat), int(density * flat.shape[1]))
    mask = jax.vmap(lambda kept: jnp.zeros(flat.shape[1], bool).at[kept].set(True))(kept)
    return jnp.where(mask, flat, 0.0).reshape(tasks.shape)


def keep_random(key: jax.Array, tasks: Tasks, density: float) -> Tasks:
    """DARE: each entry stays with probability `density`, and is divided by it."""
    if density >= 1.0:
        return tasks
    return jnp.where(jax.random.bernoulli(key, density, tasks.shape), tasks / density, 0.0)
