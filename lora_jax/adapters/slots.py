"""What a pool holds of one weight in one slot: low-rank factors, and a gain for DoRA."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.adapters.stack import pad
from lora_jax.lifting import Delta, Factor, Lifted, Site, Weight, adapted_norm
from lora_jax.lifting.relift import relift
from lora_jax.lifting.site import check_arrays
from lora_jax.methods import DoRA, LoRA
from lora_jax.nearest import nearest

Factors = Mapping[str, Mapping[str, Any]]
Arrays = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Slot:
    """``gain · (W + A·B)``: LoRA with its scale within B, or DoRA with its norm computed already.

    A frozen adapter need not compute ``m / ‖W + ΔW‖`` in each pass, nor for each row.

    Attributes:
      rank: the largest of any adapter.
      has_gain: whether an adapter may be a DoRA.
      dtype: of A and B; gains are in fp32, where a rounding would touch all of W.
    """

    rank: int
    has_gain: bool
    dtype: Any
    dropout: ClassVar[float] = 0.0

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """The arrays of no adapter: A and B are zero, the gain is one."""
        del key
        batch = weight.sizes(weight.batch)
        a = jnp.zeros((*batch, *weight.sizes(weight.ins), self.rank), self.dtype)
        b = jnp.zeros((*batch, self.rank, *weight.sizes(weight.outs)), self.dtype)
        gain = jnp.ones(weight.sizes((*weight.batch, *weight.outs)), jnp.float32)
        return {"a": a, "b": b, "gain": gain} if self.has_gain else {"a": a, "b": b}

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """``ΔW = A·B``, and the gain of each output."""
        gain: tuple[Factor, ...] = ()
        if self.has_gain:
            gain = (Factor(arrays["gain"], (*weight.batch, *weight.outs)),)
        return Delta(terms=(_term(arrays, weight),), gain=gain)


def slotted(lifted: Lifted) -> Lifted:
    """The same function with a `Slot` at each site, as large as the site's LoRA or DoRA.

    Raises:
      ValueError: a site of another method.
    """
    methods = {}
    for site in lifted.sites:
        _check_method(site, "a pool")
        own = site.method
        assert isinstance(own, LoRA)
        methods[site.path] = Slot(own.rank, isinstance(own, DoRA), own.dtype)
    return relift(lifted, lifted.sites, methods)


def check_fits(pool: Lifted, adapter: Lifted, factors: Factors) -> None:
    """Raises `ValueError` where an adapter does not fit the slots of a pool."""
    places = {site.path: site for site in pool.sites}
    for site in adapter.sites:
        _check_method(site, "an adapter")
        if site.path not in factors:
            raise ValueError(f"factors have no entry for {site.path!r}, which the adapter adapts")
        check_arrays(site, factors[site.path])
        if site.path not in places:
            near = nearest(site.path, places, 3)
            raise ValueError(
                f"the adapter changes {site.path!r}, which the pool has no place for; it has "
                f"{len(places)}, of which the nearest are {', '.join(map(repr, near))}: lift the "
                "pool over the targets of all its adapters"
            )
        _check_place(places[site.path], site)


def host_arrays(adapter: Lifted, factors: Factors) -> Arrays:
    """The arrays of an adapter on the host at its own rank, B multiplied by the scale.

    Raises:
      ValueError: one of them holds NaN or infinity.
    """
    found = {}
    for site in adapter.sites:
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large is told below
            own = {
                name: np.asarray(array, np.float32) for name, array in factors[site.path].items()
            }
            own["b"] = own["b"] * _scale(site)
        for name, array in own.items():
            if not np.isfinite(array).all():
                raise ValueError(
                    f"{name!r} of {site.path!r} holds NaN or infinity in the adapter"
                    + (", or does once it is multiplied by its scale" if name == "b" else "")
                )
        found[site.path] = own
    return found


def fill(pool: Lifted, arrays: Arrays) -> Arrays:
    """The arrays of one slot: zeros beyond an adapter's ranks and where it has no factors."""
    filled: Arrays = {}
    for site in pool.sites:
        low_rank = {name: shape for name, shape in site.arrays.items() if name != "gain"}
        own = arrays.get(site.path)
        held = pad(own and {name: own[name] for name in low_rank}, low_rank)
        if "gain" in site.arrays:
            held["gain"] = (own or {}).get("gain", np.ones(site.arrays["gain"].shape))
        filled[site.path] = {n: x.astype(site.arrays[n].dtype) for n, x in held.items()}
    return filled


def gains(pool: Lifted, weights: Mapping[str, Any], filled: Any, magnitudes: Any) -> Any:
    """DoRA's gain ``m / ‖W + A·B‖`` at each site that may have one.

    Args:
      pool: whose sites hold `Slot`s.
      weights: the frozen weight of each site.
      filled: the arrays of a slot.
      magnitudes: m for each site with a gain.
    """
    found = {}
    for site in pool.sites:
        if site.path not in magnitudes:
            continue
        weight, kept = site.weight, (*site.weight.batch, *site.weight.outs)
        norm = adapted_norm(weights[site.path], (_term(filled[site.path], weight),), kept)
        found[site.path] = magnitudes[site.path] / norm
    return found


def _term(arrays: Mapping[str, Any], weight: Weight) -> tuple[Factor, Factor]:
    return (
        Factor(arrays["a"], (*weight.batch, *weight.ins, "rank")),
        Factor(arrays["b"], (*weight.batch, "rank", *weight.outs)),
    )


def _scale(site: Site) -> Any:
    """What multiplies B: a number, or one for each layer and rank."""
    method, weight = site.method, site.weight
    assert isinstance(method, LoRA)
    scales = method.layer_scales(weight.shape[weight.batch[0]] if weight.batch else 0)
    if scales is None:
        return np.float32(method.scale)
    layers, rank = scales.shape
    shape = (layers, *[1] * (len(weight.batch) - 1), rank, *[1] * len(weight.outs))
    return scales.reshape(shape).astype(np.float32)


def _check_method(site: Site, whose: str) -> None:
    delta = getattr(type(site.method), "delta", None)
    if delta not in (LoRA.delta, DoRA.delta):
        raise ValueError(
            f"{site.path!r} of {whose} is adapted by {site.method}, and slots hold LoRA and DoRA: "
            "convert it with to_lora first"
        )


def _check_place(place: Site, site: Site) -> None:
    slot, method = place.method, site.method
    assert isinstance(slot, Slot)
    assert isinstance(method, LoRA)
    if place.shape != site.shape or place.weight.batch != site.weight.batch:
        raise ValueError(
            f"{site.path!r} is {site.shape} in the adapter and {place.shape} in the pool: they are "
            "made for different bases"
        )
    if method.rank > slot.rank:
        raise ValueError(
            f"the adapter has rank {method.rank} at {site.path!r}, and the pool's largest is "
            f"{slot.rank}: lift the pool with a larger rank, or lower the adapter's by to_lora"
        )
    if isinstance(method, DoRA) and not slot.has_gain:
        raise ValueError(
            f"the adapter is a DoRA at {site.path!r}, and the pool has plain LoRA there: lift the "
            f"pool with DoRA(rank={slot.rank}), which holds both"
        )
