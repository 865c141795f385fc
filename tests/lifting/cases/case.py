"""What a model case is: a function nobody edited, its params, its arguments and what to adapt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Case(NamedTuple):
    """A model to lift.

    Attributes:
      apply: ``apply(params, *args)``.
      params: any pytree of arrays.
      args: the arguments of one call.
      targets: patterns of the weights to adapt.
      fallbacks: (weight, primitive) pairs that must use the dense W + ΔW; all other uses are lazy.
      reverse_mode: whether JAX can differentiate the model backwards (not through a while loop).
    """

    apply: Callable[..., Any]
    params: Any
    args: tuple[Any, ...]
    targets: tuple[str, ...]
    fallbacks: frozenset[tuple[str, str]] = frozenset()
    reverse_mode: bool = True


def weights(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, jax.Array]:
    """Independent normal weights, scaled to keep activations near one: name=shape."""
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return {
        name: 0.4 * jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def inputs(*shape: int, seed: int = 7) -> jax.Array:
    """A normal activation."""
    return jax.random.normal(jax.random.key(seed), shape)


def tokens(*shape: int, vocabulary: int = 16) -> jax.Array:
    """Token ids."""
    return jax.random.randint(jax.random.key(8), shape, 0, vocabulary)
