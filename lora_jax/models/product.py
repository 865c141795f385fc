"""The one place where models multiply matrices.

A product in bfloat16 has bfloat16 operands and a float32 sum, and so have the two products of its
backward pass. JAX alone would leave their cotangent in float32, which takes the other operand with
it and is several times slower where there are bfloat16 instructions.
"""

import functools
import itertools
import string
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


def product(
    spec: str, x: Float[Array, "..."], y: Float[Array, "..."], dtype: str
) -> Float[Array, "..."]:
    """Multiplies two arrays with operands in `dtype` and the sum in at least float32.

    Args:
        spec: the contraction in einsum notation, for example `"...i,io->...o"`; an axis that is
            kept is one of the left operand, of the right one, or of both. `...` of the left
            operand alone are rows, which are multiplied as one axis.
        x: the left operand.
        y: the right operand.
        dtype: name of the type both operands are cast to, such as `"bfloat16"`.

    Returns:
        The product in the type it was summed in: float32, or float64 for float64 operands.

    >>> product("bi,io->bo", jnp.ones((2, 3)), jnp.ones((3, 4)), "bfloat16").dtype
    dtype('float32')
    """
    if spec.count("...") == 2:
        # For the gradient of a kernel's factors, which sums over rows, XLA:CPU would transpose what
        # two axes of them belong to, and compute it anew as it does.
        rows = x.ndim - (spec.index(",") - len("..."))
        outs = product(spec.replace("...", "R"), x.reshape(-1, *x.shape[rows:]), y, dtype)
        return outs.reshape(*x.shape[:rows], *outs.shape[1:])
    x, y = x.astype(dtype), y.astype(dtype)
    left, right, out = _labels(spec, x.ndim, y.ndim)
    natural = _natural_order(left, right, out)
    multiply = _multiply if dtype == "bfloat16" else _dot
    return lax.transpose(multiply(x, y, left, right, natural), [natural.index(i) for i in out])


def grouped_product(
    x: Float[Array, "rows ins"],
    y: Float[Array, "groups ins outs"],
    sizes: Int[Array, " groups"],
    dtype: str,
) -> Float[Array, "rows outs"]:
    """Multiplies each group of rows with its own matrix, as `product` does.

    Args:
        x: the rows, those of the first group first.
        y: one matrix for each group.
        sizes: number of rows of each group; they add up to all rows.
        dtype: name of the type both operands are cast to.

    Returns:
        The products in the type they were summed in.
    """
    x, y = x.astype(dtype), y.astype(dtype)
    if dtype == "bfloat16":
        return _multiply_groups(x, y, sizes)
    total = jnp.promote_types(dtype, jnp.float32)
    return lax.ragged_dot(x, y, sizes, preferred_element_type=total)


# ---------------------------------------------------------------------------------------------
# One product with a derivative of its own. It is one equation and nothing else, so that whoever
# reads the traced program still sees the product in it.


def _dot(x: Array, y: Array, left: str, right: str, out: str) -> Array:
    """A product whose axes come out as those of both, of the left, of the right."""
    batch = [i for i in left if i in right and i in out]
    summed = [i for i in left if i in right and i not in out]
    place = lambda labels, axes: tuple(map(axes.index, labels))
    numbers = (
        (place(summed, left), place(summed, right)),
        (place(batch, left), place(batch, right)),
    )
    total = jnp.promote_types(x.dtype, jnp.float32)
    return lax.dot_general(x, y, numbers, preferred_element_type=total)


_multiply = jax.custom_vjp(_dot, nondiff_argnums=(2, 3, 4))


def _forward(x: Any, y: Any, left: str, right: str, out: str) -> tuple[Array, Any]:
    return _dot(x.value, y.value, left, right, out), _needed(x, y)


def _backward(left: str, right: str, out: str, saved: Any, cotangent: Array) -> Any:
    x, y = saved
    narrow = cotangent.astype(jnp.bfloat16)
    total = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    for_x = None if y is None else total(f"{out},{right}->{left}", narrow, y).astype(narrow.dtype)
    for_y = None if x is None else total(f"{left},{out}->{right}", x, narrow).astype(narrow.dtype)
    return for_x, for_y


_multiply.defvjp(_forward, _backward, symbolic_zeros=True)


def _dot_groups(x: Array, y: Array, sizes: Array) -> Array:
    return lax.ragged_dot(x, y, sizes, preferred_element_type=jnp.float32)


_multiply_groups = jax.custom_vjp(_dot_groups)


def _forward_groups(x: Any, y: Any, sizes: Any) -> tuple[Array, Any]:
    return _dot_groups(x.value, y.value, sizes.value), (*_needed(x, y), sizes.value)


def _backward_groups(saved: Any, cotangent: Array) -> Any:
    x, y, sizes = saved
    narrow = cotangent.astype(jnp.bfloat16)
    for_x = for_y = None
    if y is not None:
        for_x = _dot_groups(narrow, y.swapaxes(1, 2), sizes).astype(narrow.dtype)
    if x is not None:
        rows = lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), [0], [])
        for_y = lax.ragged_dot_general(
            x, narrow, sizes, rows, preferred_element_type=jnp.float32
        ).astype(narrow.dtype)
    return for_x, for_y, None


_multiply_groups.defvjp(_forward_groups, _backward_groups, symbolic_zeros=True)


def _needed(x: Any, y: Any) -> tuple[Array | None, Array | None]:
    """What the backward pass reads: for the gradient of either operand, the other one."""
    return x.value if y.perturbed else None, y.value if x.perturbed else None


# ---------------------------------------------------------------------------------------------
# Notation


def _labels(spec: str, *ranks: int) -> list[str]:
    """The letters of each operand's axes and of the result's, with `...` spelt out.

    >>> _labels("...i,io->...o", 3, 2)
    ['ABi', 'io', 'ABo']
    """
    inputs, out = spec.split("->")
    operands = inputs.split(",")
    counts = [
        rank - len(axes) + 3 for axes, rank in zip(operands, ranks, strict=True) if "..." in axes
    ]
    dots = string.ascii_uppercase[: max(counts, default=0)]
    return [axes.replace("...", dots) for axes in (*operands, out)]


def _natural_order(left: str, right: str, out: str) -> str:
    """The axes of a result as a product gives them: those of both operands first."""
    kept = itertools.chain((i for i in left if i in right), (i for i in left if i not in right))
    return "".join(i for i in (*kept, *(i for i in right if i not in left)) if i in out)
