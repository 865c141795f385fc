"""Any method as a plain LoRA: exactly where ΔW is a product of factors, else by rank or energy.

The nearest matrix of a rank is its truncated SVD (Eckart and Young). Ranks by energy as PEFT's
`convert_to_lora`: the smallest whose singular values hold that share of the sum of squares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.adapters.low_rank import (
    as_lora_arrays,
    decomposed,
    decomposed_matrix,
    dense_change,
    factored,
    site_delta,
    weights_by_path,
)
from lora_jax.lifting import Delta, Lifted, Site
from lora_jax.lifting.relift import relift
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
        smallest rank that holds it, each of its stacked layers its own.
      params: the frozen params, for methods whose ΔW depends on W or scales it (DoRA, IA³).

    Returns:
      The same function lifted with `LoRA` at every site, and its factors.

    Raises:
      ValueError: both `rank` and `energy`, or one out of range; an array that has no input and
        output side; a method that changes biases too, or that is no product of factors without a
        rank or energy; no params where they are needed.
    """
    _check_choice(rank, energy)
    leaves = weights_by_path(params)
    methods, converted = {}, {}
    for site in lifted.sites:
        base = leaves.get(site.path)
        a, b, method = _nearest(site, factors[site.path], base, rank, energy)
        first = next(iter(factors[site.path].values()))
        methods[site.path] = dataclasses.replace(method, dropout=site.method.dropout)
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
) -> tuple[jax.Array, jax.Array, LoRA]:
    """A and B ``(layers, in, rank), (layers, rank, out)`` of one site, and their method."""
    weight = site.weight
    if not weight.ins or not weight.outs:
        raise ValueError(f"{site.path!r} {site.shape} has no input and output side for a LoRA")
    if site.bias is not None:
        raise ValueError(f"{site.method} changes the bias beside {site.path!r} too: LoRA does not")
    most = min(weight.fan_in, weight.fan_out)
    if rank is not None and rank > most:
        raise ValueError(f"rank {rank} is larger than {site.path!r} allows: at most {most}")
    delta = _delta_or_say(site, arrays, base)
    pair = factored(delta, weight)
    if pair is not None and rank is None and energy is None and pair[0].shape[-1] <= most:
        return *pair, _unscaled(pair[0].shape[-1])
    if pair is not None:
        u, s, vt = decomposed(*pair)
        if rank is None and energy is None:
            rank = s.shape[-1]
    else:
        u, s, vt = decomposed_matrix(_dense(site, delta, base, rank, energy))
    if energy is None:
        k = min(rank or 1, s.shape[-1])
        return u[..., :k], s[..., :k, None] * vt[..., :k, :], _unscaled(k)
    layers = weight.sizes(weight.batch)[:1]
    each = ranks_for_energy(s, energy).reshape((*layers, -1)).max(axis=-1)
    k = int(each.max())
    held = np.arange(k) < np.repeat(each.reshape(-1), s.shape[0] // each.size)[:, None]
    kept = jnp.where(held, s[..., :k], 0.0)
    method = _unscaled(k) if (each == k).all() else _unscaled(k, tuple(map(int, each)))
    return u[..., :k], kept[..., None] * vt[..., :k, :], method


def _delta_or_say(site: Site, arrays: Mapping[str, Any], base: Any) -> Delta:
    try:
        return site_delta(site, arrays, base)
    except ValueError as error:
        if base is not None:
            raise
        raise ValueError(
            f"ΔW of {site.method} depends on the weight {site.path!r}: give params to convert it"
        ) from error


def _unscaled(rank: int, ranks: tuple[int, ...] | None = None) -> LoRA:
    """A LoRA of scale 1, of one rank or of one for each layer."""
    alphas = None if ranks is None else tuple(map(float, ranks))
    return LoRA(rank, float(rank), ranks=ranks, alphas=alphas)


def _dense(
    site: Site, delta: Delta, base: Any, rank: int | None, energy: float | None
) -> jax.Array:
    name = type(site.method).__name__
    if rank is None and energy is None:
        raise ValueError(
            f"{name} at {site.path!r} is no product of two factors: give a rank or an energy"
        )
    if base is None and delta.gain:
        raise ValueError(f"{name} scales the weight {site.path!r}: give params to convert it")
    base = jnp.zeros(site.shape, jnp.float32) if base is None else base
    return dense_change(delta, base, site.weight)


def ranks_for_energy(s: jax.Array, energy: float) -> np.ndarray:
    """For each layer the smallest rank that holds a share of the sum of squares.

    Args:
      s: singular values, largest first, ``(layers, k)``; concrete.
      energy: in (0, 1].

    >>> ranks_for_energy(jnp.array([[2.0, 1.0, 1.0], [1.0, 0.0, 0.0]]), 0.8)
    array([2, 1])
    """
    held = np.cumsum(np.square(np.asarray(s, np.float64)), axis=-1)
    short = (held < energy * held[..., -1:]).sum(axis=-1)
    return np.minimum(short + 1, s.shape[-1])
