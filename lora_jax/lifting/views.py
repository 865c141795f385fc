"""Views of a weight: move the factors instead of the weight.

A rule takes the weight, the equation's parameters and its other operands, and says how each factor
and each axis' origin move. The interpreter applies the primitive itself to the base.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from lora_jax.lifting.algebra import (
    AdaptedWeight,
    Delta,
    Factor,
    Label,
    NoRule,
    Origin,
    merged_origin,
)

Moved = tuple[Delta, tuple[Origin, ...]]
Rule = Callable[..., Moved]


def each_axis(fn: Callable[[jax.Array, int, int], jax.Array]) -> Callable[[Factor], Factor]:
    """A map over factors: `fn(array, dimension of the array, axis of the weight)` per axis."""

    def move(factor: Factor) -> Factor:
        array = factor.array
        for dimension, axis in enumerate(factor.axes):
            if isinstance(axis, int):
                array = fn(array, dimension, axis)
        return factor if array is factor.array else Factor(array, factor.axes)

    return move


# ---------------------------------------------------------------------------------------------
# The same entries in another order or shape


def transpose(weight: AdaptedWeight, params: dict[str, Any]) -> Moved:
    """Renames the axes."""
    permutation = params["permutation"]
    new = {old: position for position, old in enumerate(permutation)}
    origin = tuple(weight.origin[old] for old in permutation)
    return weight.delta.map(lambda factor: factor.with_axes(new)), origin


def squeeze(weight: AdaptedWeight, params: dict[str, Any]) -> Moved:
    """Drops axes of size one."""
    gone = {d % weight.ndim for d in params["dimensions"]}
    kept = [axis for axis in range(weight.ndim) if axis not in gone]
    new = {old: position for position, old in enumerate(kept)}
    delta = weight.delta.map(lambda factor: drop_axes(factor, gone).with_axes(new))
    return delta, tuple(weight.origin[axis] for axis in kept)


def drop_axes(factor: Factor, gone: set[int]) -> Factor:
    """Removes axes of size one."""
    dimensions = [i for i, axis in enumerate(factor.axes) if axis in gone]
    if not dimensions:
        return factor
    axes = tuple(axis for axis in factor.axes if axis not in gone)
    return Factor(lax.squeeze(factor.array, dimensions), axes)


def broadcast_in_dim(weight: AdaptedWeight, params: dict[str, Any]) -> Moved:
    """Moves axes; those that grow from one, or are new, are held by no factor."""
    shape, target = params["shape"], [int(d) for d in params["broadcast_dimensions"]]
    new: dict[Label, Label] = dict(enumerate(target))
    grown = {i for i, d in enumerate(target) if weight.shape[i] != shape[d]}
    delta = weight.delta.map(lambda factor: drop_axes(factor, grown).with_axes(new))
    source = {d: i for i, d in enumerate(target)}
    origin = [weight.origin[source[d]] if d in source else frozenset() for d in range(len(shape))]
    return delta, tuple(origin)


def reshape(weight: AdaptedWeight, params: dict[str, Any]) -> Moved:
    """Splits and joins axes where each factor holds them all or none."""
    if params.get("dimensions") is not None:
        raise NoRule("reshape with dimensions")
    old, new = weight.shape, tuple(params["new_sizes"])
    origin: list[Origin] = [frozenset()] * len(new)
    for olds, news in reshape_groups(old, new):
        sources = [weight.origin[i] for i in olds if old[i] != 1 or len(olds) == 1]
        for j in news:
            # An axis of size one among others is new, whichever run it fell into.
            origin[j] = merged_origin(sources) if new[j] != 1 or len(news) == 1 else frozenset()
    return weight.delta.map(lambda factor: _reshape_factor(factor, old, new)), tuple(origin)


def reshape_groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of old and new axes that hold the same number of entries.

    >>> reshape_groups((8, 12), (8, 3, 4))
    [([0], [0]), ([1], [1, 2])]
    """
    i = j = 0
    groups = []
    while i < len(old) or j < len(new):
        olds, news = list(range(i, min(i + 1, len(old)))), list(range(j, min(j + 1, len(new))))
        i, j = i + len(olds), j + len(news)
        while (a := math.prod(old[k] for k in olds)) != (b := math.prod(new[k] for k in news)):
            if a < b:
                olds.append(i)
                i += 1
            else:
                news.append(j)
                j += 1
        groups.append((olds, news))
    return groups


def _reshape_factor(factor: Factor, old: Sequence[int], new: Sequence[int]) -> Factor:
    """Reshapes a factor group by group; a group must be held whole or not at all."""
    order: list[int] = []
    shape: list[int] = []
    axes: list[Label] = []
    for olds, news in reshape_groups(old, new):
        real = [axis for axis in olds if old[axis] != 1]
        held = [axis for axis in olds if axis in factor.axes]
        if any(axis in held for axis in real) and not all(axis in held for axis in real):
            raise NoRule(f"reshape {tuple(old)} -> {tuple(new)} joins axes a factor holds in part")
        order += [factor.axes.index(axis) for axis in held]
        if any(axis in held for axis in real):
            shape += [new[j] for j in news]
            axes += news
    for label in factor.hidden:
        order.append(factor.axes.index(label))
        shape.append(factor.array.shape[factor.axes.index(label)])
        axes.append(label)
    return Factor(lax.reshape(lax.transpose(factor.array, order), shape), tuple(axes))


def rev(weight: AdaptedWeight, params: dict[str, Any]) -> Moved:
    """Reverses the factors that hold a reversed axis."""
    flipped = params["dimensions"]
    flip = lambda array, i, axis: lax.rev(array, (i,)) if axis in flipped else array
    return weight.delta.map(each_axis(flip)), weight.origin


# ---------------------------------------------------------------------------------------------
# A part of the entries


def slice_(weight: AdaptedWeight, params: dict[str, Any]) -> Moved:
    """Slices the factors that hold a sliced axis."""
    start, limit = params["start_indices"], params["limit_indices"]
    stride = params["strides"] or (1,) * weight.ndim

    def part(array: jax.Array, i: int, axis: int) -> jax.Array:
        if (limit[axis] - start[axis], stride[axis]) == (weight.shape[axis], 1):
            return array
        return lax.slice_in_dim(array, start[axis], limit[axis], stride[axis], i)

    return weight.delta.map(each_axis(part)), weight.origin


def dynamic_slice(weight: AdaptedWeight, params: dict[str, Any], *start: Any) -> Moved:
    """Slices at a traced position; an axis taken whole stays as it is."""
    size = params["slice_sizes"]

    def part(array: jax.Array, i: int, axis: int) -> jax.Array:
        if size[axis] == weight.shape[axis]:
            return array
        return lax.dynamic_slice_in_dim(array, start[axis], size[axis], i)

    return weight.delta.map(each_axis(part)), weight.origin


def all_gather(weight: AdaptedWeight, params: dict[str, Any]) -> Moved:
    """Hand-written FSDP inside `shard_map`: the factors are gathered instead of ΔW."""
    if not params["tiled"]:
        raise NoRule("all_gather(tiled=False)")
    name, dimension = params["axis_name"], params["all_gather_dimension"]

    def gather(array: jax.Array, i: int, axis: int) -> jax.Array:
        return lax.all_gather(array, name, axis=i, tiled=True) if axis == dimension else array

    return weight.delta.map(each_axis(gather)), weight.origin


# ---------------------------------------------------------------------------------------------
# The same entries in another type or scale


def convert_element_type(weight: AdaptedWeight, params: dict[str, Any]) -> Moved:
    """Casts the factors; a cast to integers has no factored form."""
    dtype = params["new_dtype"]
    if not jnp.issubdtype(dtype, jnp.floating):
        raise NoRule(f"cast to {dtype}")
    return weight.delta.map_values(lambda factor: factor.astype(dtype)), weight.origin


def reduce_precision(weight: AdaptedWeight, params: dict[str, Any]) -> Moved:
    """Rounds the factors as the model rounds the weight."""
    bits = params["exponent_bits"], params["mantissa_bits"]
    rounded = lambda factor: factor.with_array(lax.reduce_precision(factor.array, *bits))
    return weight.delta.map_values(rounded), weight.origin


def unchanged(weight: AdaptedWeight, params: dict[str, Any]) -> Moved:
    """Entries, axes and types stay as they are."""
    return weight.delta, weight.origin


def stop_gradient(weight: AdaptedWeight, params: dict[str, Any]) -> Moved:
    """Stops the gradient of the factors too."""
    stop = lambda factor: factor.with_array(lax.stop_gradient(factor.array))
    return weight.delta.map_values(stop), weight.origin


def mul(weight: AdaptedWeight, params: dict[str, Any], by: Any) -> Moved:
    """A scalar multiple."""
    return _scaled(weight, by)


def div(weight: AdaptedWeight, params: dict[str, Any], by: Any) -> Moved:
    """A scalar quotient."""
    if jnp.ndim(by) != 0:
        raise NoRule("division by an array")
    return _scaled(weight, 1.0 / jnp.asarray(by))


def _scaled(weight: AdaptedWeight, by: Any) -> Moved:
    """c · gain · (W + Σ terms) = gain · (c·W + Σ c·terms): a scalar joins every term."""
    if jnp.ndim(by) != 0:
        raise NoRule("product with an array")
    scalar = Factor(jnp.asarray(by), ())
    terms = tuple((*term, scalar) for term in weight.delta.terms)
    return dataclasses.replace(weight.delta, terms=terms), weight.origin


def neg(weight: AdaptedWeight, params: dict[str, Any]) -> Moved:
    """The negative."""
    return _scaled(weight, jnp.asarray(-1, weight.dtype))


def reshard(weight: AdaptedWeight, params: dict[str, Any]) -> Moved:
    """Each factor goes where the weight's axes that it holds go; its hidden axes are replicated."""
    target = params["dst_sharding"]
    mesh = params["concrete_mesh"] or target.mesh
    entries = (*target.spec, *(None,) * (weight.ndim - len(target.spec)))

    def move(factor: Factor) -> Factor:
        axes = (entries[axis] if isinstance(axis, int) else None for axis in factor.axes)
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return factor.with_array(jax.sharding.reshard(factor.array, sharding))

    return weight.delta.map(move), weight.origin


VIEWS: dict[str, Rule] = {
    "all_gather": all_gather,
    "broadcast_in_dim": broadcast_in_dim,
    "convert_element_type": convert_element_type,
    "copy": unchanged,
    "copy_p": unchanged,
    "div": div,
    "dynamic_slice": dynamic_slice,
    "mul": mul,
    "name": unchanged,
    "neg": neg,
    "reduce_precision": reduce_precision,
    "reshape": reshape,
    "reshard": reshard,
    "rev": rev,
    "sharding_constraint": unchanged,
    "slice": slice_,
    "squeeze": squeeze,
    "stop_gradient": stop_gradient,
    "transpose": transpose,
}

# Shape-agnostic: bound on each factor as they are (varying axes of `shard_map`, reshards).
BOUND_ON_FACTORS = ("mesh_cast", "pbroadcast", "pcast", "pvary")


# ---------------------------------------------------------------------------------------------
# One weight into several, several into one


def split(weight: AdaptedWeight, parts: Sequence[Any], axis: int) -> list[AdaptedWeight]:
    """The views of a weight whose base has been split along `axis` into `parts`."""
    views, start = [], 0
    for part in parts:
        stop = start + part.shape[axis]

        def cut(array: jax.Array, i: int, at: int, start: int = start, stop: int = stop) -> Any:
            return lax.slice_in_dim(array, start, stop, axis=i) if at == axis else array

        delta = weight.delta.map(each_axis(cut))
        views.append(dataclasses.replace(weight, base=part, delta=delta))
        start = stop
    return views


def concatenate(operands: Sequence[Any], base: Any, axis: int) -> AdaptedWeight:
    """Fused projections: each ΔW, zero-padded along `axis`, is a term of the whole."""
    weights = [w for w in operands if isinstance(w, AdaptedWeight)]
    if any(weight.delta.gain or weight.delta.dropout for weight in weights):
        raise NoRule("concatenate with a gain or dropout")
    terms, start = [], 0
    for operand in operands:
        size = operand.shape[axis]
        after = base.shape[axis] - start - size
        if isinstance(operand, AdaptedWeight):
            terms += [_pad_term(term, axis, start, after) for term in operand.delta.terms]
        start += size
    return AdaptedWeight(
        base,
        Delta(terms=tuple(terms)),
        path=" + ".join(weight.path for weight in weights),
        origin=tuple(merged_origin([w.origin[i] for w in weights]) for i in range(base.ndim)),
        picked=merged_origin([weight.picked for weight in weights]),
        scanned=merged_origin([weight.scanned for weight in weights]),
        looked_up=any(weight.looked_up for weight in weights),
    )


def _pad_term(term: Sequence[Factor], axis: int, before: int, after: int) -> tuple[Factor, ...]:
    if not any(factor.has(axis) for factor in term):
        raise NoRule("concatenate along an axis that no factor holds")

    def pad(factor: Factor) -> Factor:
        if not factor.has(axis):
            return factor
        widths = [(before, after) if at == axis else (0, 0) for at in factor.axes]
        return Factor(jnp.pad(factor.array, widths), factor.axes)

    return tuple(map(pad, term))
