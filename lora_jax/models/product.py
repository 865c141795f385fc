"""The one place where models multiply matrices."""

import jax.numpy as jnp
from jaxtyping import Array, Float


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
