"""The moments of the inputs of a weight, carried out of any program as the gradients of zeros.

What a weight is multiplied with lies deep inside scans, remats and branches. Gradients come out of
all of those by themselves. So each use passes its input through a function that returns it
unchanged and whose backward pass gives, as the "gradient" of some arrays of zeros, the count, sum
and outer products of the rows it saw. The arrays are sliced by scans as the weight is, and over
several uses and calls the moments add up, as gradients do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lora_jax.lifting.algebra import AdaptedWeight, Factor, Label, NoRule, Watch, contract
from lora_jax.lifting.roles import Weight


def watch(arrays: Mapping[str, Any], weight: Weight, mask: Any, normalise: bool) -> Watch:
    """What sees the inputs of a weight, to be put into its delta.

    Args:
      arrays: as `zeros` makes them; their gradients are the moments.
      weight: whose inputs are seen.
      mask: what each row counts, or None.
      normalise: divide the rows of each use by their largest value first, as CorDA does in PEFT.
    """
    hidden = tuple(f"in{axis}" for axis in weight.ins)
    parts = (
        Factor(arrays["count"], weight.batch),
        Factor(arrays["first"], (*weight.batch, *weight.ins)),
        Factor(arrays["second"], (*weight.batch, *weight.ins, *hidden)),
    )
    rows = None if mask is None else Factor(mask, tuple(f"row{i}" for i in range(mask.ndim)))
    return Watch(parts, rows, normalise)


def zeros(weight: Weight) -> dict[str, jax.Array]:
    """The arrays of `watch`: ``count (*batch)``, ``first (*batch, *in)``, ``second (…, *in)``."""
    batch, ins = weight.sizes(weight.batch), weight.sizes(weight.ins)
    shapes = {"count": batch, "first": (*batch, *ins), "second": (*batch, *ins, *ins)}
    return {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}


def seen(weight: AdaptedWeight, x: Any, axes: Sequence[Label], summed: Sequence[int]) -> Any:
    """`x` itself; in the backward pass its moments become the gradients of the watch's arrays.

    Args:
      weight: the weight, or a view of it, that `x` is multiplied with.
      x: the input.
      axes: its labels: ints for axes of the weight, others for rows.
      summed: axes of the weight that the product sums over.

    Raises:
      NoRule: the weight is a part of the one that was lifted, or its inputs were reshaped.
    """
    watching = weight.delta.watch
    if watching is None:
        return x
    second = watching.parts[2]
    ins = [axis for axis in second.axes if isinstance(axis, int) and axis in summed]
    sizes = {axis: x.shape[axes.index(axis)] for axis in ins}
    kept = [second.array.shape[second.axes.index(label)] for label in second.hidden]
    if set(ins) != set(summed) or list(sizes.values()) != kept:
        raise NoRule("inputs of another shape than the weight's own")

    @jax.custom_vjp
    def same(x: jax.Array, rows: Any, arrays: Any) -> jax.Array:
        return x

    def forward(x: jax.Array, rows: Any, arrays: Any) -> tuple[jax.Array, Any]:
        return x, (x, rows)

    def backward(saved: Any, cotangent: jax.Array) -> Any:
        x, rows = saved
        found = _moments(x, rows, axes, dict(zip(ins, second.hidden, strict=True)), watching)
        return cotangent, None if rows is None else jnp.zeros_like(rows), found

    same.defvjp(forward, backward)
    rows = None if watching.rows is None else watching.rows.array
    return same(x, rows, tuple(part.array for part in watching.parts))


def _moments(
    x: jax.Array, rows: Any, axes: Sequence[Label], hidden: Mapping[Label, Label], watching: Watch
) -> tuple[jax.Array, ...]:
    """Count, sum and sum of outer products of the rows of one use, in fp32."""
    labels = [label for label in axes if not isinstance(label, int)]
    sizes = {label: x.shape[axes.index(label)] for label in axes}
    weights = _row_weights(rows, [sizes[label] for label in labels])
    wide = x.astype(jnp.float32)
    if watching.normalise:
        wide = wide / jnp.abs(_largest(wide, axes, weights, labels))
    row = Factor(weights, tuple(labels))
    counted, again = Factor(wide, tuple(axes)), Factor(wide, tuple(axes)).with_axes(hidden)
    products = ((row,), (row, counted), (row, counted, again))
    return tuple(
        contract(product, part.axes, sizes, dtype=jnp.float32, precision=lax.Precision.HIGHEST)
        for product, part in zip(products, watching.parts, strict=True)
    )


def _row_weights(rows: Any, shape: Sequence[int]) -> jax.Array:
    """What each row counts: the mask where it has the shape of the rows, else one."""
    if rows is None or math.prod(shape) != rows.size:
        return jnp.ones(shape, jnp.float32)
    return rows.reshape(shape).astype(jnp.float32)


def _largest(
    x: jax.Array, axes: Sequence[Label], weights: jax.Array, labels: Sequence[Label]
) -> jax.Array:
    order = [axes.index(label) for label in labels]
    spread = jnp.expand_dims(weights, tuple(range(len(order), x.ndim)))
    rest = [i for i in range(x.ndim) if i not in order]
    return jnp.where(spread > 0, lax.transpose(x, (*order, *rest)), -jnp.inf).max()
