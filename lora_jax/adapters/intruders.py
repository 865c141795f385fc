"""Intruder dimensions: directions of W + ΔW that W does not have, made smaller.

Shuttleworth et al., "LoRA vs Full Fine-tuning: An Illusion of Equivalence", arXiv 2410.21228;
as PEFT's `reduce_intruder_dimension`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lora_jax.adapters.low_rank import (
    Plain,
    as_lora_arrays,
    as_matrices,
    plain_lora,
    weights_by_path,
)
from lora_jax.adapters.recipe import Factors, check_plain
from lora_jax.lifting import Lifted
from lora_jax.lifting.packed import unpacked


class Reduced(NamedTuple):
    """An adapter with its intruder dimensions made smaller.

    Attributes:
      factors: of the same `Lifted`.
      intruders: how many were found at each site, ``(layers,)``.
    """

    factors: dict[str, dict[str, jax.Array]]
    intruders: dict[str, jax.Array]


def reduce_intruders(
    lifted: Lifted,
    params: Any,
    factors: Factors,
    *,
    top: int = 10,
    threshold: float = 0.5,
    keep: float = 0.75,
) -> Reduced:
    """Makes the intruder dimensions of a LoRA adapter smaller, to give back what W knew.

    Of the leading singular vectors of W + ΔW (on the side of the outputs) those are intruders that
    resemble no singular vector of W. Their part is multiplied by `keep`, and what is left of ΔW is
    brought back to the adapter's rank. Layers without intruders keep their factors bit by bit.

    Args:
      lifted: plain `LoRA` at every site.
      params: the frozen params.
      factors: of the adapter.
      top: how many of the leading singular vectors are looked at.
      threshold: an intruder's largest |cosine| with a singular vector of W lies below, in [0, 1].
      keep: what intruders are multiplied with, in [0, 1] (PEFT's `mitigation_lambda`).

    Raises:
      ValueError: a value out of range, or a site that is no plain LoRA.
    """
    if top < 1:
        raise ValueError(f"top must be an integer of at least 1, not {top!r}")
    for name, value in (("threshold", threshold), ("keep", keep)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must lie in [0, 1], not {value!r}")
    leaves = weights_by_path(params)
    reduced, intruders = {}, {}
    for site in lifted.sites:
        check_plain(site, factors)
        arrays, weight = factors[site.path], site.weight
        base = as_matrices(unpacked(leaves[site.path], jnp.float32), weight)
        reduce = functools.partial(_reduce_layer, top=top, threshold=threshold, keep=keep)
        layers = (base, plain_lora(site, arrays))
        a, b, intruders[site.path] = lax.map(lambda own, reduce=reduce: reduce(*own), layers)
        reduced[site.path] = as_lora_arrays(a, b, weight, arrays["a"].dtype)
    return Reduced(reduced, intruders)


def _reduce_layer(
    base: jax.Array, lora: Plain, top: int, threshold: float, keep: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    a, b, scale, used = lora
    with jax.default_matmul_precision("highest"):
        own = jnp.linalg.svd(base, full_matrices=False)[2]
        u, s, vt = jnp.linalg.svd(base + scale * a @ b, full_matrices=False)
        intruder = (resemblance(vt, own) < threshold) & (jnp.arange(len(s)) < top)
        # (W + ΔW) with its intruders scaled, less W: the other parts are left as they are.
        taken = (u * jnp.where(intruder, (1.0 - keep) * s, 0.0)) @ vt
        u, s, vt = jnp.linalg.svd(a @ b - taken / scale, full_matrices=False)
        root = jnp.sqrt(jnp.where(used, s[: a.shape[-1]], 0.0))
        found = intruder.sum()
        new_a = jnp.where(found > 0, u[:, : a.shape[-1]] * root, a)
        new_b = jnp.where(found > 0, root[:, None] * vt[: a.shape[-1]], b)
    return new_a, new_b, found.astype(jnp.int32)


def resemblance(new: Float[Array, "new dim"], own: Float[Array, "own dim"]) -> Float[Array, " new"]:
    """The largest |cosine| of each direction with any of W's own; an intruder's is small.

    Args:
      new: directions of W + ΔW, as rows.
      own: those of W, as rows.

    >>> resemblance(jnp.array([[0.0, 1.0], [0.6, 0.8]]), jnp.array([[1.0, 0.0]]))
    Array([0. , 0.6], dtype=float32)
    """
    return jnp.abs(new @ own.T).max(axis=1)
