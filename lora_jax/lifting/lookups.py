"""Row look-ups: embeddings, experts chosen by the token, stacked layers chosen by an index."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax

from lora_jax.lifting.algebra import (
    AdaptedWeight,
    Factor,
    Label,
    NoRule,
    Origin,
    contract,
    expand,
    is_adapted,
    merged_origin,
    product_dtype,
)
from lora_jax.lifting.calls import Call
from lora_jax.lifting.packed import is_packed


def gather(call: Call, weight: Any, index: Any) -> Any:
    """Row look-up ``W[index]``: gather the rows of each factor, then contract them.

    Where every factor holds the indexed axes (experts, stacked layers) the result is a weight
    still, and stays factored until it meets an activation.
    """
    if not is_adapted(weight) or is_adapted(index):
        raise NoRule("an adapted weight used as an index")
    plan = _plan_lookup(call.params, weight, index)
    rows = call.base(weight.base, index)
    pick = lambda factor: plan.rows(factor, index)
    factors = [factor for term in weight.delta.terms for factor in term if factor.axes]
    if (
        call.discovering
        or is_packed(rows)
        or (factors and all(plan.holds(factor) for factor in factors))
    ):
        return dataclasses.replace(
            weight,
            base=rows,
            delta=weight.delta.map(pick),
            origin=plan.origin(weight),
            picked=weight.picked | merged_origin([weight.origin[i] for i in plan.indexed]),
            looked_up=True,
        )
    delta = weight.delta.map_values(pick)
    sizes = dict(enumerate(rows.shape))
    for term in delta.terms:
        dtype = product_dtype(rows, *(factor.array for factor in term))
        rows = rows + contract(term, range(rows.ndim), sizes, dtype=dtype).astype(rows.dtype)
    for gain in delta.gain:
        rows = rows * expand(gain, rows.shape).astype(rows.dtype)
    return rows


@dataclasses.dataclass(frozen=True)
class _Lookup:
    """Plain row indexing: `indexed` axes of the weight are replaced by the axes of the index."""

    params: dict[str, Any]
    indexed: tuple[int, ...]
    index_axes: tuple[int, ...]  # where the axes of the index stand in the result
    kept: dict[Label, Label]  # axis of the weight -> axis of the result
    ndim: int  # of the result, which may hold axes of size one besides

    def holds(self, factor: Factor) -> bool:
        return set(self.indexed) <= set(factor.axes)

    def rows(self, factor: Factor, index: Any) -> Factor:
        """The factor's rows, labelled by the axes of the result."""
        if not factor.has(*self.indexed):
            return factor.with_axes(self.kept)
        if not self.holds(factor):
            raise NoRule("a factor that holds only some of the indexed axes")
        columns = self.params["dimension_numbers"].start_index_map
        wanted = [k for k, axis in enumerate(columns) if axis in self.indexed]
        rest = [i for i, axis in enumerate(factor.axes) if axis not in self.indexed]
        batch = len(self.index_axes)
        array = lax.gather(
            factor.array,
            index if len(wanted) == len(columns) else index[..., jnp.array(wanted)],
            lax.GatherDimensionNumbers(
                offset_dims=tuple(range(batch, batch + len(rest))),
                collapsed_slice_dims=tuple(sorted(factor.axes.index(i) for i in self.indexed)),
                start_index_map=tuple(factor.axes.index(columns[k]) for k in wanted),
            ),
            tuple(1 if axis in self.indexed else n for axis, n in _sized(factor)),
            unique_indices=self.params["unique_indices"],
            indices_are_sorted=self.params["indices_are_sorted"],
            mode=self.params["mode"],
            fill_value=self.params["fill_value"] if not factor.hidden else 0,
        )
        labels = [self.kept.get(factor.axes[i], factor.axes[i]) for i in rest]
        return Factor(array, (*self.index_axes, *labels))

    def origin(self, weight: AdaptedWeight) -> tuple[Origin, ...]:
        picked = merged_origin([weight.origin[i] for i in self.indexed])
        origin = [picked] * self.ndim
        for old, new in self.kept.items():
            origin[new] = weight.origin[old]  # type: ignore[call-overload]
        return tuple(origin)


def _sized(factor: Factor) -> list[tuple[Label, int]]:
    return list(zip(factor.axes, factor.array.shape, strict=True))


def _plan_lookup(params: dict[str, Any], weight: AdaptedWeight, index: Any) -> _Lookup:
    """Reads a gather as row indexing, such as ``W[index]`` or `vmap` of ``W[i]``."""
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    collapsed = set(numbers.collapsed_slice_dims)
    # `vmap` of a dynamic slice gives every axis an index; clipped, that of a whole axis is zero.
    clipped = params["mode"] != lax.GatherScatterMode.FILL_OR_DROP
    whole = {i for i in range(weight.ndim) if sizes[i] == weight.shape[i] and i not in collapsed}
    kept = {i for i in whole if clipped or i not in numbers.start_index_map}
    indexed = [i for i in range(weight.ndim) if i not in kept]
    single_rows = all(sizes[i] == 1 and i in numbers.start_index_map for i in indexed)
    if numbers.operand_batching_dims or not indexed or not single_rows:
        raise NoRule("a gather that is not row indexing")
    results = [i for i in range(weight.ndim) if i not in collapsed]
    place = dict(zip(results, numbers.offset_dims, strict=True))
    ndim = index.ndim - 1 + len(results)
    return _Lookup(
        params,
        indexed=tuple(indexed),
        index_axes=tuple(i for i in range(ndim) if i not in numbers.offset_dims),
        kept={i: place[i] for i in results if i in kept},
        ndim=ndim,
    )
