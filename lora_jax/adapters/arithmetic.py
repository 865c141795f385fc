"""Arithmetic on LoRA adapters over one base: one adapter out of several, as PEFT combines them.

Exact in ΔW: `scale`, and the kinds ``"cat"`` and, where its rank suffices, ``"svd"``. The other
kinds are heuristics. ``"linear"``, ``"ties"``, ``"dare_linear"``, ``"dare_ties"`` and
``"magnitude_prune"`` work on A and B apart, each weighted by √|w·s| with the sign on A, so that
products of one adapter's A with another's B come in; their ``_svd`` forms work on ΔW itself and
decompose the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lora_jax.adapters.low_rank import as_lora_arrays, decomposed, decomposed_matrix, plain_lora
from lora_jax.adapters.pruning import (
    Majority,
    agreed_mean,
    keep_largest,
    keep_random,
    weighted_sum,
)
from lora_jax.adapters.recipe import (
    Adapter,
    Factors,
    Kind,
    Recipe,
    check_combination,
    check_plain,
)
from lora_jax.lifting import Lifted, Site
from lora_jax.lifting.relift import relift
from lora_jax.methods import LoRA


def scale(lifted: Lifted, factors: Factors, weight: float) -> dict[str, dict[str, Any]]:
    """The factors of ``weight · ΔW`` for LoRA adapters; the weight may be negative or zero.

    >>> import lora_jax as lora
    >>> params, x = {"w": jnp.zeros((3, 2))}, jnp.ones((1, 3))
    >>> lifted = lora.lift(lambda p, x: x @ p["w"], params, x, method=LoRA(1), targets="w")
    >>> twice = scale(lifted, {"w": {"a": jnp.ones((3, 1)), "b": jnp.ones((1, 2))}}, 2.0)
    >>> twice["w"]["b"]
    Array([[2., 2.]], dtype=float32)
    """
    for site in lifted.sites:
        check_plain(site, factors)
    return {
        path: {**arrays, "b": arrays["b"] * jnp.asarray(weight, arrays["b"].dtype)}
        for path, arrays in factors.items()
    }


def combine(
    adapters: Sequence[Adapter],
    weights: Sequence[float] | None = None,
    kind: Kind = "cat",
    *,
    rank: int | None = None,
    density: float | None = None,
    majority: Majority = "total",
    key: jax.Array | None = None,
) -> tuple[Lifted, dict[str, dict[str, jax.Array]]]:
    """One LoRA adapter out of several over the same function and base.

    As PEFT's `add_weighted_adapter`, on each stacked layer apart. Weights multiply each adapter's
    own scale (alpha over rank). A site that only some adapters have is combined from those. (PEFT
    takes ``"linear"`` for a single adapter, whatever was asked; here the kind is what was asked.)

    Args:
      adapters: pairs of a `Lifted` and its factors, all plain `LoRA`; their sites may differ.
      weights: one for each adapter, of any sign; left out, all are 1: their sum.
      kind: ``"cat"`` (exact; ranks add up), ``"svd"`` (nearest of a rank), ``"linear"``, or a
        pruning kind, each with its ``_svd`` form.
      rank: of the ``svd`` forms; left out, the largest of the adapters.
      density: of the pruning kinds, the share of entries kept: in [0, 1], for DARE in (0, 1].
      majority: how TIES elects signs, by ``"total"`` or by ``"frequency"``.
      key: a PRNG key, for DARE.

    Returns:
      The function lifted with `LoRA` at all sites, alpha equal to the rank, and its factors.

    Raises:
      ValueError: no adapters, an unknown kind, another number of weights, unequal ranks under a
        kind that needs equal ones, density missing or out of range, no key for DARE, or a method
        other than LoRA.
    """
    weights = [1.0] * len(adapters) if weights is None else list(weights)
    how = Recipe(kind, rank, density, majority, key)
    check_combination(adapters, weights, how)
    sites: dict[str, Site] = {}
    for lifted, _ in adapters:
        for site in lifted.sites:
            sites.setdefault(site.path, site)
    methods, combined = {}, {}
    for number, (path, site) in enumerate(sites.items()):
        parts = [
            _part(_site_at(lifted, path), factors[path], weight)
            for (lifted, factors), weight in zip(adapters, weights, strict=True)
            if path in factors
        ]
        own_key = None if key is None else jax.random.fold_in(key, number)
        a, b = _combine_site(site, parts, how._replace(key=own_key))
        dtype = parts[0].dtype
        methods[path] = LoRA(a.shape[-1], float(a.shape[-1]), dropout=site.method.dropout)
        combined[path] = as_lora_arrays(a, b, site.weight, dtype)
    return relift(adapters[0][0], list(sites.values()), methods), combined


class _Part(NamedTuple):
    """One adapter at one site: its matrices, and the scale of each layer."""

    a: jax.Array
    b: jax.Array
    weight: float
    scale: jax.Array
    dtype: Any


# ---------------------------------------------------------------------------------------------
# One site


def _part(site: Site, arrays: Mapping[str, Any], weight: float) -> _Part:
    lora = plain_lora(site, arrays)
    return _Part(lora.a, lora.b, weight, lora.scale, arrays["a"].dtype)


def _site_at(lifted: Lifted, path: str) -> Site:
    return next(site for site in lifted.sites if site.path == path)


def _combine_site(site: Site, parts: Sequence[_Part], how: Recipe) -> tuple[jax.Array, jax.Array]:
    most = min(site.weight.fan_in, site.weight.fan_out)
    if how.kind in ("cat", "svd"):
        a = jnp.concatenate([p.a * (p.weight * p.scale)[:, None, None] for p in parts], axis=-1)
        b = jnp.concatenate([p.b for p in parts], axis=-2)
        if how.kind == "cat" and a.shape[-1] <= most:
            return a, b
        u, s, vt = decomposed(a, b)
        return _truncated(u, s, vt, most if how.kind == "cat" else _svd_rank(site, parts, how))
    if how.kind.endswith("_svd"):
        return _truncated(*_merged_svd(parts, how), _svd_rank(site, parts, how))
    if len({p.a.shape[-1] for p in parts}) > 1:
        ranks = sorted({p.a.shape[-1] for p in parts})
        raise ValueError(
            f"kind={how.kind!r} adds A to A and B to B, so ranks must be equal, but at "
            f"{site.path!r} they are {ranks}: use 'cat' or 'svd'"
        )
    total = jnp.stack([p.weight * p.scale for p in parts], axis=1)
    for_b = jnp.sqrt(jnp.abs(total))
    for_a = jnp.where(total < 0, -for_b, for_b)
    keys = (None, None) if how.key is None else jax.random.split(how.key)
    a = _merged(jnp.stack([p.a for p in parts], axis=1), for_a, how._replace(key=keys[0]))
    b = _merged(jnp.stack([p.b for p in parts], axis=1), for_b, how._replace(key=keys[1]))
    return a, b


def _truncated(u: jax.Array, s: jax.Array, vt: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
    return u[..., :rank], s[..., :rank, None] * vt[..., :rank, :]


def _svd_rank(site: Site, parts: Sequence[_Part], how: Recipe) -> int:
    most = min(site.weight.fan_in, site.weight.fan_out)
    rank = how.rank or max(p.a.shape[-1] for p in parts)
    if rank > most:
        raise ValueError(f"rank {rank} is larger than {site.path!r} allows: at most {most}")
    return rank


def _merged(tasks: jax.Array, weights: jax.Array, how: Recipe) -> jax.Array:
    """Tensors ``(layers, tasks, rows, columns)`` merged, each layer by itself."""
    keys = None if how.key is None else jax.random.split(how.key, tasks.shape[0])
    one = lambda own: _merge_tasks(own[0], own[1], how._replace(key=own[2]))
    return lax.map(one, (tasks, weights, keys))


def _merged_svd(parts: Sequence[_Part], how: Recipe) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The SVD of the merged ΔWs; one layer's are formed at a time."""
    weights = jnp.array([p.weight for p in parts])
    layers = parts[0].a.shape[0]
    keys = None if how.key is None else jax.random.split(how.key, layers)

    def one(own: Any) -> Any:
        pairs, key = own
        changes = [jnp.matmul(a, b, precision="highest") for a, b in pairs]
        return decomposed_matrix(_merge_tasks(jnp.stack(changes), weights, how._replace(key=key)))

    u, s, vt = lax.map(one, ([(p.a * p.scale[:, None, None], p.b) for p in parts], keys))
    return u, s, vt


def _merge_tasks(tasks: jax.Array, weights: jax.Array, how: Recipe) -> jax.Array:
    kind = how.kind.removesuffix("_svd")
    if kind in ("ties", "magnitude_prune"):
        tasks = keep_largest(tasks, _given(how.density))
    elif kind.startswith("dare"):
        tasks = keep_random(_given(how.key), tasks, _given(how.density))
    if kind.endswith("ties"):
        return agreed_mean(tasks, weights, how.majority)
    return weighted_sum(tasks, weights)


def _given(value: Any) -> Any:
    assert value is not None  # `_check` has seen to it
    return value
