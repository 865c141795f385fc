"""Any method as a plain LoRA: exactly where ΔW is a product of factors, else by rank or energy.

The nearest matrix of a rank is its truncated SVD (Eckart and Young). Ranks by energy as PEFT's
`convert_to_lora`: the smallest whose singular values hold that share of the sum of squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax.adapters.low_rank import (
    as_lora_arrays,
    decomposed,
    decomposed_matrix,
    dense_change,
    factored,
    site_delta,
    weights_by_path,
)
from lora_jax.adapters.relift import relift
from lora_jax.lifting import Lifted, Site
from lora_jax.methods import LoRA

Factors = Mapping[str, Mapping[str, Any]]


def to_lora(
    lifted: Lifted,
    factors: Factors,
    *,
    rank: int | None = None,
    energy: float | None = None,
    params: Any = None,
) -> tuple[Lifted, dict[str, dict[str, jax.Array]]]:
    """The plain LoRA nearest to an adapter of any method, with scale 1 (alpha equals rank).

    With neither `rank` nor `energy` it is the same ΔW, for methods that are products of factors:
    LoRA itself, its initialisers (PiSSA becomes rank 2r), VeRA, LoHa (rank r²) and others. Of a
    LoRA, `rank` gives the nearest one of lower rank. Computed in fp32; of products, on the factors.

    Args:
      lifted: over concrete sites of any methods.
      factors: its factors.
      rank: the new rank; where ΔW has fewer components, that many.
      energy: a share in (0, 1] of the sum of squares of ΔW's singular values: each site gets the
        smallest rank that holds it in all of its stacked layers.
      params: the frozen params, for methods whose ΔW depends on W or scales it (DoRA, IA³).

    Returns:
      The same function lifted with `LoRA` at every site, and its factors.

    Raises:
      ValueError: both `rank` and `energy`, or one out of range; an array that has no input and
        output side; a method that is no product of factors, and no rank or energy, or no params
        where they are needed.
    """
    _check_choice(rank, energy)
    leaves = weights_by_path(params)
    methods, converted = {}, {}
    for site in lifted.sites:
        base = leaves.get(site.path)
        a, b = _nearest(site, factors[site.path], base, rank, energy)
        first = next(iter(factors[site.path].values()))
        methods[site.path] = LoRA(a.shape[-1], float(a.shape[-1]), dropout=site.method.dropout)
        converted[site.path] = as_lora_arrays(a, b, site.weight, first.dtype)
    return relift(lifted, lifted.sites, methods), converted


def _check_choice(rank: int | None, energy: float | None) -> None:
    if rank is not None and energy is not None:
        raise ValueError(f"give a rank or an energy, not both: rank={rank}, energy={energy}")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise ValueError(f"rank must be an integer of at least 1, not {rank!r}")
    if energy is not None and not 0.0 < energy <= 1.0:
        raise ValueError(f"energy must lie in (0, 1], not {energy!r}")


def _nearest(
    site: Site, arrays: Mapping[str, Any], base: Any, rank: int | None, energy: float | None
) -> tuple[jax.Array, jax.Array]:
    """A and B ``(layers, in, rank), (layers, rank, out)`` of one site."""
    weight = site.weight
    if not weight.ins or not weight.outs:
        raise ValueError(f"{site.path!r} {site.shape} has no input and output side for a LoRA")
    most = min(weight.fan_in, weight.fan_out)
    if rank is not None and rank > most:
        raise ValueError(f"rank {rank} is larger than {site.path!r} allows: at most {most}")
    delta = site_delta(site, arrays, base)
    pair = factored(delta, weight)
    if pair is not None and rank is None and energy is None and pair[0].shape[-1] <= most:
        return pair
    if pair is not None:
        u, s, vt = decomposed(*pair)
        if rank is None and energy is None:
            rank = s.shape[-1]
    else:
        u, s, vt = decomposed_matrix(_dense(site, delta, base, rank, energy))
    k = rank_for_energy(s, energy) if energy is not None else min(rank or 1, s.shape[-1])
    return u[..., :k], s[..., :k, None] * vt[..., :k, :]


def _dense(site: Site, delta: Any, base: Any, rank: int | None, energy: float | None) -> jax.Array:
    name = type(site.method).__name__
    if rank is None and energy is None:
        raise ValueError(
            f"{name} at {site.path!r} is no product of two factors: give a rank or an energy"
        )
    if base is None and delta.gain:
        raise ValueError(f"{name} scales the weight {site.path!r}: give params to convert it")
    base = jnp.zeros(site.shape, jnp.float32) if base is None else base
    return dense_change(delta, base, site.weight)


def rank_for_energy(s: jax.Array, energy: float) -> int:
    """The smallest rank that holds a share of the sum of squares in every layer.

    Args:
      s: singular values, largest first, ``(layers, k)``; concrete.
      energy: in (0, 1].

    >>> rank_for_energy(jnp.array([[2.0, 1.0, 1.0]]), 0.8)
    2
    """
    held = jnp.cumsum(jnp.square(s), axis=-1)
    short = (held < energy * held[..., -1:]).sum(axis=-1)
    return min(int(short.max()) + 1, s.shape[-1])
