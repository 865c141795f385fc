"""Uses of a weight: consume it in factored form.

Each rule computes the primitive on the base as the model wrote it, and adds each term of ΔW
contracted with the activation. `call` is the interpreter's side of the bargain: `call.base(...)`
binds the original equation, `call.dropped(...)` applies dropout, `call.record(...)` notes the use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lora_jax.lifting import placement
from lora_jax.lifting.algebra import (
    AdaptedWeight,
    Factor,
    Label,
    NoRule,
    Term,
    contract,
    form,
    is_adapted,
    is_entangled,
    product_dtype,
    scale_by,
)
from lora_jax.lifting.calls import Call
from lora_jax.lifting.lookups import gather
from lora_jax.lifting.watch import seen

# ---------------------------------------------------------------------------------------------
# Products


def dot_general(call: Call, lhs: Any, rhs: Any) -> jax.Array:
    """``x·W + Σ (x·A)·B`` for any arrangement of contracted, batch and free axes."""
    (lhs_sum, rhs_sum), (lhs_batch, rhs_batch) = call.params["dimension_numbers"]
    if is_adapted(lhs) and is_adapted(rhs):
        lhs, rhs = _one_stays_factored(call, lhs, rhs)
    weight_first = is_adapted(lhs)
    if weight_first:
        weight, x = lhs, rhs
        shared = dict(zip((*rhs_sum, *rhs_batch), (*lhs_sum, *lhs_batch), strict=True))
        summed, batch = lhs_sum, lhs_batch
    else:
        weight, x = rhs, lhs
        shared = dict(zip((*lhs_sum, *lhs_batch), (*rhs_sum, *rhs_batch), strict=True))
        summed, batch = rhs_sum, rhs_batch
    call.record(weight, summed, batch)

    # Labels: the weight's axes are ints; axes of the activation alone are ("x", i).
    x_axes = tuple(shared.get(i, ("x", i)) for i in range(x.ndim))
    kept_w = [i for i in range(weight.ndim) if i not in summed and i not in batch]
    kept_x = [("x", i) for i in range(x.ndim) if i not in shared]
    out: tuple[Label, ...] = (*batch, *((*kept_w, *kept_x) if weight_first else (*kept_x, *kept_w)))

    before, after = _gains(weight, summed, batch)
    x = scale_by(seen(weight, x, x_axes, summed), x_axes, before)
    y = call.base(weight.base, x) if weight_first else call.base(x, weight.base)
    for term in weight.delta.terms:
        factors = _formed(term, weight, x) if is_entangled(term, summed, batch) else term
        y = y + _product_term(call, weight, Factor(x, x_axes), factors, out, y)
    return scale_by(y, out, after)


def _formed(term: Term, weight: AdaptedWeight, x: jax.Array) -> Term:
    """The term as one factor of all axes of the weight."""
    array = form(term, weight.shape, dtype=product_dtype(x, weight))
    return (Factor(array, tuple(range(weight.ndim))),)


def _product_term(
    call: Call, weight: AdaptedWeight, x: Factor, term: Term, out: tuple[Label, ...], y: jax.Array
) -> jax.Array:
    dtype = product_dtype(x.array, weight)
    dropped = Factor(call.dropped(weight, x.array), x.axes)
    term_y = contract(
        (dropped, *term),
        out,
        dict(zip(out, y.shape, strict=True)),
        dtype=dtype,
        accumulate=jnp.promote_types(dtype, y.dtype),
        precision=call.params["precision"],
    )
    return placement.place_like(term_y.astype(y.dtype), y)


def _one_stays_factored(call: Call, lhs: AdaptedWeight, rhs: AdaptedWeight) -> tuple[Any, Any]:
    """Of two adapted operands one is made dense: rows picked from a table, else the smaller."""
    (lhs_sum, rhs_sum), (lhs_batch, rhs_batch) = call.params["dimension_numbers"]
    dense_left = _is_data(lhs) >= _is_data(rhs)
    why = "product of two adapted weights"
    if dense_left:
        call.record(lhs, lhs_sum, lhs_batch)
        return call.densify(lhs, why), rhs
    call.record(rhs, rhs_sum, rhs_batch)
    return lhs, call.densify(rhs, why)


def _is_data(weight: AdaptedWeight) -> tuple[bool, int]:
    return weight.looked_up, -math.prod(weight.shape)


def _gains(
    weight: AdaptedWeight, summed: Sequence[int], batch: Sequence[int]
) -> tuple[list[Factor], list[Factor]]:
    """Gains on summed axes scale the activation before, those on kept axes the result after."""
    before, after = [], []
    for gain in weight.delta.gain:
        if not gain.has(*summed):
            after.append(gain)
        elif set(gain.axes) <= {*summed, *batch}:
            before.append(gain)
        else:
            raise NoRule("a gain that mixes summed and kept axes")
    return before, after


# ---------------------------------------------------------------------------------------------
# Convolutions


def conv_general_dilated(call: Call, x: Any, weight: Any) -> jax.Array:
    """A convolution with A's kernel into the rank, then a product with B over the channels.

    A term that is no such pair is a kernel of its own, convolved beside the weight.
    """
    if not is_adapted(weight) or is_adapted(x):
        raise NoRule("an adapted weight as the input of a convolution")
    params, numbers = call.params, call.params["dimension_numbers"]
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        raise NoRule("grouped convolution")
    out_axis, *in_axes = numbers.rhs_spec
    call.record(weight, in_axes, (), windows=in_axes[1:])
    into = [gain for gain in weight.delta.gain if set(gain.axes) == {in_axes[0]}]
    after = [gain for gain in weight.delta.gain if set(gain.axes) == {out_axis}]
    if len(into) + len(after) < len(weight.delta.gain):
        raise NoRule("a gain within the window of a convolution")

    x_axes = tuple(in_axes[0] if i == numbers.lhs_spec[1] else ("x", i) for i in range(x.ndim))
    x = scale_by(x, x_axes, into)
    y = call.base(x, weight.base)
    channel = numbers.out_spec[1]
    axes = tuple("channel" if i == channel else ("y", i) for i in range(y.ndim))
    name = {out_axis: "channel"}
    sizes = dict(zip(axes, y.shape, strict=True))
    for term in weight.delta.terms:
        kernel, rest = _kernel_factor(term, in_axes)
        if not kernel.hidden:
            own = _formed(term, weight, x)[0].array.astype(weight.dtype)
            y = y + call.base(call.dropped(weight, x), own)
            continue
        (hidden,) = kernel.hidden
        order = [kernel.axes.index(hidden if i == out_axis else i) for i in range(weight.ndim)]
        inner = lax.conv_general_dilated(
            call.dropped(weight, x),
            lax.transpose(kernel.array, order).astype(x.dtype),
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            numbers,
            precision=params["precision"],
            preferred_element_type=params["preferred_element_type"],
        )
        inner_axes = tuple(hidden if axis == "channel" else axis for axis in axes)
        outer = [factor.with_axes(name) for factor in rest]
        term_y = contract(
            (Factor(inner, inner_axes), *outer),
            axes,
            sizes,
            dtype=inner.dtype,
            precision=params["precision"],
        )
        y = y + term_y.astype(y.dtype)
    return scale_by(y, axes, [gain.with_axes(name) for gain in after])


def _kernel_factor(term: Term, in_axes: Sequence[int]) -> tuple[Factor, list[Factor]]:
    """The one factor with every input axis and one hidden axis, and the others.

    Where there is none, the first is a factor without hidden axes.
    """
    kernels = [factor for factor in term if factor.has(*in_axes)]
    rest = [factor for factor in term if not factor.has(*in_axes)]
    whole = kernels and set(kernels[0].axes) == {*in_axes, *kernels[0].hidden}
    if len(kernels) != 1 or not whole or len(kernels[0].hidden) != 1:
        return Factor(None, ()), list(term)
    return kernels[0], rest


# ---------------------------------------------------------------------------------------------
# Grouped products (experts)


def ragged_dot_general(call: Call, x: Any, weight: Any, sizes: Any, *rest: Any) -> jax.Array:
    """Rows sorted by group, one matrix a group: x·A and ·B are grouped products too."""
    numbers = call.params["ragged_dot_dimension_numbers"]
    (x_sum, w_sum), (x_batch, w_batch) = numbers.dot_dimension_numbers
    groups = tuple(numbers.rhs_group_dimensions)
    plain = (x_sum, x_batch, w_batch) == ((1,), (), ()) and len(w_sum) == len(groups) == 1
    if is_adapted(x) or rest or not plain or tuple(numbers.lhs_ragged_dimensions) != (0,):
        raise NoRule("ragged_dot other than a grouped matrix product")
    (group,), (into,) = groups, w_sum
    (out,) = (i for i in range(3) if i not in (group, into))
    call.record(weight, (into,), (group,))
    before, after = _gains(weight, (into,), (group,))

    x = _scale_groups(x, before, (group, into), sizes)
    y = call.base(x, weight.base, sizes)
    for term in weight.delta.terms:
        z = call.dropped(weight, x)
        pair = _in_and_out(term, (group, into, out), weight.shape)
        if pair is None:
            (whole,) = _formed(term, weight, x)
            z = _grouped_product(call, z, whole, (group, into, out), sizes)
        else:
            (hidden,) = pair[0].hidden
            z = _grouped_product(call, z, pair[0], (group, into, hidden), sizes)
            z = _grouped_product(call, z, pair[1], (group, hidden, out), sizes)
        y = y + z.astype(y.dtype)
    return _scale_groups(y, after, (group, out), sizes)


def _scale_groups(
    x: jax.Array, gains: Sequence[Factor], axes: tuple[int, int], sizes: Any
) -> jax.Array:
    """Multiplies each row with its group's gain."""
    for gain in gains:
        if not gain.has(axes[0]):
            x = x * gain.array.astype(x.dtype)
            continue
        array = gain.array if gain.axes == axes else gain.array[:, None]
        array = lax.transpose(gain.array, (1, 0)) if gain.axes == axes[::-1] else array
        group_of_row = jnp.repeat(jnp.arange(len(sizes)), sizes, total_repeat_length=len(x))
        x = x * array[group_of_row].astype(x.dtype)
    return x


def _in_and_out(
    term: Term, axes: tuple[int, int, int], shape: Sequence[int]
) -> tuple[Factor, Factor] | None:
    """A term as (input factor) x (output factor), small factors joined to either; else None."""
    group, into, out = axes
    ins = [factor for factor in term if not factor.has(out)]
    outs = [factor for factor in term if factor.has(out)]
    hidden = {label for factor in term for label in factor.hidden}
    held = [sum(into in factor.axes for factor in ins), sum(factor.has(*hidden) for factor in outs)]
    if held != [1, 1] or len(hidden) != 1 or any(factor.has(into) for factor in outs):
        return None
    return _joined(ins, (group, into, *hidden)), _joined(outs, (group, *hidden, out))


def _joined(factors: Sequence[Factor], order: tuple[Label, ...]) -> Factor:
    """Several factors as one, over those of the labels that they hold."""
    held = tuple(label for label in order if any(factor.has(label) for factor in factors))
    dtype = product_dtype(*(factor.array for factor in factors))
    return Factor(contract(factors, held, {}, dtype=dtype), held)


def _grouped_product(
    call: Call, z: jax.Array, factor: Factor, order: tuple[Label, ...], sizes: Any
) -> jax.Array:
    """``z`` times the factor's matrix of its row's group, or its one matrix if all share it."""
    array = lax.transpose(factor.array, [factor.axes.index(i) for i in order if i in factor.axes])
    array = array.astype(z.dtype)
    if order[0] not in factor.axes:
        return jnp.matmul(z, array, precision=call.params["precision"])
    return lax.ragged_dot(z, array, sizes, precision=call.params["precision"])


Rule = Callable[..., Any]
PRODUCTS = ("conv_general_dilated", "dot_general", "ragged_dot_general")
USES: dict[str, Rule] = {
    "conv_general_dilated": conv_general_dilated,
    "dot_general": dot_general,
    "gather": gather,
    "ragged_dot_general": ragged_dot_general,
}
