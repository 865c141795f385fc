"""The one place where models multiply matrices."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


def product(
    spec: str, x: Float[Array, "..."], y: Float[Array, "..."], dtype: str
) -> Float[Array, "..."]:
    """Multiplies two arrays with operands in `dtype` and the sum in at least float32.

    Args:
        spec: the contraction in einsum notation, for example `"...i,io->...o"`.
        x: the left operand.
        y: the right operand.
        dtype: name of the type both operands are cast to, such as `"bfloat16"`.

    Returns:
        The product in the type it was summed in: float32, or float64 for float64 operands.

    >>> product("bi,io->bo", jnp.ones((2, 3)), jnp.ones((3, 4)), "bfloat16").dtype
    dtype('float32')
    """
    total = jnp.promote_types(dtype, jnp.float32)
    return jnp.einsum(spec, x.astype(dtype), y.astype(dtype), preferred_element_type=total)


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
    total = jnp.promote_types(dtype, jnp.float32)
    return lax.ragged_dot(x.astype(dtype), y.astype(dtype), sizes, preferred_element_type=total)
