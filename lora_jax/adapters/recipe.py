"""What is asked of a combination of adapters, and whether it can be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax

from lora_jax.adapters.pruning import Majority
from lora_jax.lifting import Lifted, Site
from lora_jax.lifting.site import check_arrays
from lora_jax.methods import LoRA

Factors = Mapping[str, Mapping[str, Any]]
Adapter = tuple[Lifted, Factors]

Kind = Literal[
    "cat",
    "dare_linear",
    "dare_linear_svd",
    "dare_ties",
    "dare_ties_svd",
    "linear",
    "magnitude_prune",
    "magnitude_prune_svd",
    "svd",
    "ties",
    "ties_svd",
]
KINDS: tuple[str, ...] = get_args(Kind)


class Recipe(NamedTuple):
    """How adapters are combined; the fields are those of `combine`."""

    kind: str
    rank: int | None
    density: float | None
    majority: Majority
    key: jax.Array | None


def check_combination(adapters: Sequence[Adapter], weights: Sequence[float], how: Recipe) -> None:
    """Raises `ValueError` for what `combine` refuses, but ranks, which are compared by site."""
    if not adapters:
        raise ValueError("nothing to combine: give at least one adapter")
    if len(weights) != len(adapters):
        raise ValueError(f"{len(weights)} weights were given for {len(adapters)} adapters")
    if how.kind not in KINDS:
        raise ValueError(f"unknown kind {how.kind!r}: it is one of {', '.join(KINDS)}")
    if how.majority not in ("total", "frequency"):
        raise ValueError(f"majority must be 'total' or 'frequency', not {how.majority!r}")
    if how.rank is not None and how.rank < 1:
        raise ValueError(f"rank must be an integer of at least 1, not {how.rank!r}")
    if how.rank is not None and not how.kind.endswith("svd"):
        raise ValueError(f"a rank is for the svd kinds; {how.kind!r} decides its own")
    _check_density(how)
    for lifted, factors in adapters:
        for site in lifted.sites:
            check_plain(site, factors)
            _check_same(adapters[0][0], site)
            _check_ranks(site, how.kind)


def _check_density(how: Recipe) -> None:
    prunes, random = how.kind not in ("cat", "linear", "svd"), how.kind.startswith("dare")
    if prunes and how.density is None:
        raise ValueError(f"kind={how.kind!r} needs a density, the share of entries to keep")
    if prunes and not (0.0 <= (how.density or 0.0) <= 1.0 and (how.density or not random)):
        allowed = "(0, 1]" if random else "[0, 1]"
        raise ValueError(f"density must lie in {allowed} for {how.kind!r}, not {how.density!r}")
    if not prunes and how.density is not None:
        raise ValueError(f"kind={how.kind!r} prunes nothing, but density={how.density!r} was given")
    if random and how.key is None:
        raise ValueError(f"kind={how.kind!r} drops entries at random: give a key")


def check_plain(site: Site, factors: Factors) -> None:
    """Raises `ValueError` where a site is no plain LoRA, or its factors are not there."""
    if not isinstance(site.method, LoRA) or set(site.arrays) != {"a", "b"}:
        raise ValueError(
            f"{site.path!r} is adapted by {site.method}, and arithmetic is for plain LoRA: "
            "convert it with to_lora first"
        )
    if site.path not in factors:
        raise ValueError(f"factors have no entry for {site.path!r}, which is adapted")
    check_arrays(site, factors[site.path])


def _check_same(first: Lifted, site: Site) -> None:
    for other in first.sites:
        if other.path == site.path and other.weight != site.weight:
            raise ValueError(
                f"{site.path!r} is {site.shape} in one adapter and {other.shape} in the first: "
                "they were made for different bases"
            )


def _check_ranks(site: Site, kind: str) -> None:
    elementwise = kind not in ("cat", "linear", "svd") and not kind.endswith("_svd")
    if elementwise and getattr(site.method, "ranks", None) is not None:
        raise ValueError(
            f"kind={kind!r} counts the entries of A and B, and the layers of {site.path!r} have "
            f"ranks of their own: use {kind}_svd"
        )
