"""ΔW as sums of products of factors with named axes, and how to contract them.

An adapted weight stands for ``gain · (base + Σ terms)``. A term is a product of factors; each
axis of a factor names an axis of the weight (an int) or a hidden axis that is summed over (a
string, e.g. the rank). LoRA is one term of two factors that share the hidden axis ``"rank"``:

    ΔW[i, o] = Σ_rank  a[i, rank] · b[rank, o]

Views of the weight relabel or slice the factors; uses contract them with the activation. The
product of the factors alone is never formed.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lora_jax.lifting import placement

# An int is an axis of the weight, a string a hidden axis; activations add labels of their own.
Label = Hashable
Origin = frozenset[tuple[str, int]]  # axes of the original weights that a view's axis came from


@dataclasses.dataclass(frozen=True)
class Factor:
    """An array whose axes are labelled.

    Attributes:
      array: its entries.
      axes: a label for each of its axes.
      stride: of a part of an axis; None elsewhere. The array, of axes ``(axis, part)``, is then 1
        where ``index // stride % size == part``, and 0 elsewhere: products with all parts of an
        axis only split it, or join it again.
    """

    array: Any
    axes: tuple[Label, ...]
    stride: int | None = None

    def with_axes(self, new: Mapping[Any, Label]) -> Factor:
        """The same array with weight axes renamed; hidden axes keep their names."""
        return dataclasses.replace(self, axes=tuple(new.get(axis, axis) for axis in self.axes))

    def with_array(self, array: Any) -> Factor:
        """The same axes, and the same entries placed, cast or traced otherwise."""
        return dataclasses.replace(self, array=array)

    def astype(self, dtype: Any) -> Factor:
        return self.with_array(self.array.astype(dtype))

    def at_layer(self, array: Any) -> Factor:
        """The factor for one entry of the weight's first axis, of which `array` is the slice."""
        axes = tuple(a - 1 if isinstance(a, int) else a for a in self.axes if a != 0)
        return Factor(array, axes, None if self.has(0) else self.stride)

    def has(self, *axes: Label) -> bool:
        return any(axis in self.axes for axis in axes)

    @property
    def hidden(self) -> tuple[str, ...]:
        return tuple(axis for axis in self.axes if isinstance(axis, str))


Term = tuple[Factor, ...]


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Dropout on the input of ΔW.

    Attributes:
      key: keys, one for each stacked layer, sliced like a weight.
      keep: the share of the entries that is kept, without axes.
    """

    key: Factor
    keep: Factor


@dataclasses.dataclass(frozen=True)
class Watch:
    """Arrays of zeros whose gradients are the moments of a weight's inputs (see `watch.py`).

    Attributes:
      parts: for the count, the sum and the outer products of the rows; they move with the weight.
      rows: what each row counts.
      normalise: divide the rows of each use by their largest value.
    """

    parts: tuple[Factor, ...]
    rows: Factor | None = None
    normalise: bool = False


@dataclasses.dataclass(frozen=True)
class Delta:
    """What a method does to a weight: ``W -> gain · (W + Σ terms)``.

    Attributes:
      terms: products of factors, summed.
      gain: factors that multiply the sum; their axes are weight axes only.
      dropout: set by the lifting when it is called with an `rng`.
      watch: set where the inputs of the weight are to be seen.
    """

    terms: tuple[Term, ...] = ()
    gain: tuple[Factor, ...] = ()
    dropout: Dropout | None = None
    watch: Watch | None = None

    def map(self, fn: Callable[[Factor], Factor]) -> Delta:
        """Applies `fn` to every factor, those of dropout and watch included."""
        drop, watch = self.dropout, self.watch
        if drop is not None:
            drop = Dropout(fn(drop.key), fn(drop.keep))
        if watch is not None:
            watch = dataclasses.replace(watch, parts=tuple(map(fn, watch.parts)))
        return dataclasses.replace(self.map_values(fn), dropout=drop, watch=watch)

    def map_values(self, fn: Callable[[Factor], Factor]) -> Delta:
        """Applies `fn` to every factor of terms and gain alone (e.g. a cast)."""
        terms = tuple(tuple(map(fn, term)) for term in self.terms)
        return Delta(terms, tuple(map(fn, self.gain)), self.dropout, self.watch)

    @property
    def is_identity(self) -> bool:
        return not self.terms and not self.gain

    @property
    def is_full(self) -> bool:
        """Whether ΔW is given entry by entry: then W + ΔW costs no more than W and ΔW apart."""
        if not self.terms or self.gain or self.dropout is not None:
            return False
        arrays = [[factor for factor in term if factor.axes] for term in self.terms]
        return all(len(term) == 1 and not term[0].hidden for term in arrays)


@dataclasses.dataclass(frozen=True)
class AdaptedWeight:
    """A frozen weight, or a view of it, with its delta beside it.

    Attributes:
      base: the array (of the view).
      delta: factors labelled by the axes of `base`.
      path: where the weight lies in the params tree.
      origin: for each axis of `base`, the axes of the original weight it came from.
      picked: original axes already indexed by a row, a layer number or an expert number.
      scanned: original axes already consumed by a `scan`, or by taking one layer of a stack.
      looked_up: rows were gathered by an array of indices, as from an embedding.
    """

    base: Any
    delta: Delta
    path: str
    origin: tuple[Origin, ...]
    picked: Origin = frozenset()
    scanned: Origin = frozenset()
    looked_up: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.base.shape)

    @property
    def dtype(self) -> Any:
        return self.base.dtype

    @property
    def ndim(self) -> int:
        return len(self.base.shape)


for _cls, _data, _meta in (
    (Factor, ["array"], ["axes", "stride"]),
    (Dropout, ["key", "keep"], []),
    (Watch, ["parts", "rows"], ["normalise"]),
    (Delta, ["terms", "gain", "dropout", "watch"], []),
    (AdaptedWeight, ["base", "delta"], ["path", "origin", "picked", "scanned", "looked_up"]),
):
    jax.tree_util.register_dataclass(_cls, data_fields=_data, meta_fields=_meta)


class NoRule(Exception):
    """Raised by a rule that cannot keep the weight factored; the dense W + ΔW is used instead."""


def is_adapted(value: Any) -> bool:
    """Whether a value of the environment is a weight with its delta."""
    return isinstance(value, AdaptedWeight)


def merged_origin(origins: Sequence[Origin]) -> Origin:
    """The union of several axes' origins."""
    return frozenset().union(*origins)


# ---------------------------------------------------------------------------------------------
# Contraction


def contract(
    factors: Sequence[Factor],
    out: Sequence[Label],
    sizes: Mapping[Any, int],
    *,
    dtype: Any,
    accumulate: Any = None,
    precision: Any = None,
) -> jax.Array:
    """Multiplies factors, sums over every label that is not in `out`, and orders the axes as `out`.

    The first factor (the activation, where there is one) is joined with the others one by one, the
    one that leaves the smallest result first: x·A before ·B, so A·B is never formed.

    Args:
      factors: at least one.
      out: labels of the result; those that no factor holds are broadcast.
      sizes: the size of each label of `out`.
      dtype: of the operands of each product.
      accumulate: dtype of the result and of each product before it is cast to `dtype`.
      precision: as `jax.lax.dot_general`.

    Returns:
      An array of dtype `accumulate`, its axes those of `out`.
    """
    accumulate = dtype if accumulate is None else accumulate
    size = dict(sizes)
    for factor in factors:
        size.update(zip(factor.axes, factor.array.shape, strict=True))
    parts = split_axes(factors)
    done, *todo = (factor.astype(dtype) for factor in _without_parts(factors, parts))
    done, split_out = _split(done, parts, size), _in_parts(out, parts)
    while todo:
        after = [_labels_needed(done, todo, i, split_out) for i in range(len(todo))]
        i = min(range(len(todo)), key=lambda i: math.prod(size[label] for label in after[i]))
        done = _multiply(done.astype(dtype), todo.pop(i), after[i], accumulate, precision)
    array = _arrange(done, split_out, size)
    return lax.reshape(array, [size[label] for label in out]).astype(accumulate)


def form(term: Term, shape: Sequence[int], *, dtype: Any, precision: Any = None) -> jax.Array:
    """A term as an array of the weight's shape, the cheapest pair of its factors first.

    For terms that cannot be contracted with an activation factor by factor (`is_entangled`).
    """
    size: dict[Any, int] = dict(enumerate(shape))
    for factor in term:
        size.update(zip(factor.axes, factor.array.shape, strict=True))
    parts = split_axes(term)
    out = _in_parts(range(len(shape)), parts)
    factors = sorted(_without_parts(term, parts), key=lambda factor: -len(factor.axes))
    todo = [factor.astype(dtype) for factor in factors]
    while len(todo) > 1:
        after = {}
        for i, j in itertools.combinations(range(len(todo)), 2):
            rest = [factor for k, factor in enumerate(todo) if k not in (i, j)]
            after[i, j] = _labels_needed(todo[i], [todo[j], *rest], 0, out)
        i, j = min(after, key=lambda pair: math.prod(size[label] for label in after[pair]))
        second = todo.pop(j)
        todo.insert(i, _multiply(todo.pop(i), second, after[i, j], dtype, precision))
    return lax.reshape(_arrange(todo[0], out, size), shape)


def is_entangled(term: Term, summed: Sequence[int], batch: Sequence[int]) -> bool:
    """Whether two factors share a summed axis, so that ΔW itself is cheaper than x with either."""
    parts = split_axes(term)
    sides = [set(factor.axes) - set(batch) for factor in _without_parts(term, parts)]
    return any(sum(axis in side and len(side) > 1 for side in sides) > 1 for axis in summed)


def split_axes(factors: Sequence[Factor]) -> dict[Label, tuple[Label, ...]]:
    """The axes that factors split into parts, as nothing but a reshape does, and those parts."""
    found: dict[Label, tuple[Label, ...]] = {}
    for axis in {factor.axes[0] for factor in factors if factor.stride is not None}:
        tables = [factor for factor in factors if factor.stride is not None and factor.has(axis)]
        tables.sort(key=lambda factor: -(factor.stride or 0))
        shapes = [factor.array.shape for factor in tables]
        if math.prod(parts for _, parts in shapes) == shapes[0][0]:  # all of them, and once
            found[axis] = tuple(factor.axes[1] for factor in tables)
    return found


def _without_parts(factors: Sequence[Factor], parts: Mapping[Label, Any]) -> list[Factor]:
    return [f for f in factors if f.stride is None or f.axes[0] not in parts]


def _in_parts(labels: Sequence[Label], parts: Mapping[Label, tuple[Label, ...]]) -> list[Label]:
    return [part for label in labels for part in parts.get(label, (label,))]


def _split(
    factor: Factor, parts: Mapping[Label, tuple[Label, ...]], size: Mapping[Any, int]
) -> Factor:
    """Splits the axes of an activation, or of a weight."""
    axes = _in_parts(factor.axes, parts)
    whole = [i for i, label in enumerate(factor.axes) if label in parts]
    array = placement.gather_axes(factor.array, whole)
    return Factor(lax.reshape(array, [size[label] for label in axes]), tuple(axes))


def _labels_needed(done: Factor, todo: list[Factor], i: int, out: Sequence[Label]) -> list[Label]:
    """The labels that `done · todo[i]` must keep: wanted in the result or by another factor."""
    wanted = set(out).union(*(factor.axes for j, factor in enumerate(todo) if j != i))
    return [label for label in dict.fromkeys((*done.axes, *todo[i].axes)) if label in wanted]


def _multiply(
    x: Factor, y: Factor, keep: Sequence[Label], accumulate: Any, precision: Any
) -> Factor:
    """One product: shared labels are batched if kept, else summed."""
    shared = [label for label in x.axes if label in y.axes]
    batch = [label for label in shared if label in keep]
    summed = [label for label in shared if label not in keep]
    if len(batch) == len(y.axes):  # y scales x; its gradient as a product would transpose x
        size = dict(zip(x.axes, x.array.shape, strict=True))
        return Factor(x.array.astype(accumulate) * _arrange(y, x.axes, size), x.axes)
    y = _narrow_first(y, batch, summed)
    axes = (
        *batch,
        *(label for label in x.axes if label not in shared),
        *(label for label in y.axes if label not in shared),
    )
    index = lambda factor, labels: tuple(factor.axes.index(label) for label in labels)
    array = lax.dot_general(
        x.array,
        y.array,
        ((index(x, summed), index(y, summed)), (index(x, batch), index(y, batch))),
        precision=precision,
        preferred_element_type=accumulate,
        **placement.out_sharding(x.array, x.axes, y.array, y.axes, axes),
    )
    return Factor(array, axes)


def _narrow_first(y: Factor, batch: Sequence[Label], summed: Sequence[Label]) -> Factor:
    """A factor into fewer dimensions with these before those that are summed.

    Its gradient is then computed with the narrow operand on the left, which is several times as
    fast on a CPU. The barrier keeps XLA from turning that product round to spare the transposition.
    """
    free = [label for label in y.axes if label not in summed]
    size = dict(zip(y.axes, y.array.shape, strict=True))
    count = lambda labels: math.prod(size[label] for label in labels)
    axes = (*free, *summed)
    if batch or axes == y.axes or count(free) >= count(summed):
        return y
    array = lax.transpose(y.array, [y.axes.index(label) for label in axes])
    return Factor(lax.optimization_barrier(array), axes)


def _arrange(factor: Factor, out: Sequence[Label], size: Mapping[Any, int]) -> jax.Array:
    """Sums labels that are not wanted, transposes the rest into order, broadcasts missing ones."""
    extra = [i for i, label in enumerate(factor.axes) if label not in out]
    array = factor.array.sum(extra) if extra else factor.array
    axes = [label for label in factor.axes if label in out]
    present = [label for label in out if label in axes]
    order = [axes.index(label) for label in present]
    if order != sorted(order):
        array = lax.transpose(array, order)
    if len(present) == len(out):
        return array
    shape = [size[label] for label in out]
    return lax.broadcast_in_dim(array, shape, [i for i, label in enumerate(out) if label in axes])


def expand(factor: Factor, shape: Sequence[int]) -> jax.Array:
    """Broadcasts a factor without hidden axes to the shape of the weight."""
    return _arrange(factor, range(len(shape)), dict(enumerate(shape)))


def scale_by(array: Any, axes: Sequence[Label], factors: Sequence[Factor]) -> Any:
    """Multiplies an array with labelled axes by factors that hold some of those axes."""
    for factor in factors:
        size = dict(zip(axes, array.shape, strict=True))
        array = array * _arrange(factor.astype(array.dtype), tuple(axes), size)
    return array


def product_dtype(*arrays: Any) -> Any:
    """The dtype in which a product of these arrays is taken."""
    return jnp.result_type(*(array.dtype for array in arrays))
