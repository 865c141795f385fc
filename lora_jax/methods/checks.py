"""Checks that methods share: of their fields, and of the weights they are put on."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from lora_jax.lifting import Weight


def check_rank(rank: Any, name: str = "rank") -> None:
    """Raises `ValueError` unless a rank is an integer of at least one."""
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"{name} must be an integer of at least 1, not {rank!r}")


def check_alpha(alpha: Any) -> None:
    """Raises `ValueError` unless α is positive."""
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, not {alpha!r}")


def check_dropout(rate: float) -> None:
    """Raises `ValueError` unless a rate lies in [0, 1)."""
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout must lie in [0, 1), not {rate!r}")


def check_dtype(dtype: Any) -> None:
    """Raises `ValueError` unless a dtype is a float type."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype must be a float type, not {dtype!r}")


def check_sides(weight: Weight, name: str) -> None:
    """Raises `ValueError` where a weight has no input or no output side."""
    if not weight.ins or not weight.outs:
        raise ValueError(f"{weight.path!r} {weight.shape} has no input and output side for {name}")


def check_linear(weight: Weight, name: str) -> None:
    """Raises `ValueError` where a method is defined for matrix products alone."""
    check_sides(weight, name)
    if not weight.is_linear:
        found = ", ".join(weight.uses) or "nothing the trace knows"
        raise ValueError(
            f"{name} is defined for weights of matrix products, and {weight.path!r} is used by "
            f"{found}: use LoRA there"
        )


def check_fits(rank: int, weight: Weight, name: str) -> None:
    """Raises `ValueError` where a rank is larger than a weight's matrix allows."""
    check_sides(weight, name)
    if rank > (largest := min(weight.fan_in, weight.fan_out)):
        raise ValueError(
            f"rank {rank} is larger than {weight.path!r} allows: its matrix is "
            f"{weight.fan_in} x {weight.fan_out}, so the rank is at most {largest}"
        )


def base_of(weight: Weight, name: str) -> Any:
    """The frozen weight, or a `ValueError` where it is not at hand."""
    if weight.value is None:
        raise ValueError(
            f"{name} needs the base weight of {weight.path!r}, and it is not at hand: "
            f"a merged {name} cannot be unmerged"
        )
    return weight.value
