"""The small Flax NNX modules that every family is built from."""

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from lora_jax.models.product import product

DTYPES = ("float32", "bfloat16", "float16", "float64")

# Standard deviation of fresh weights, as in BERT and GPT-2.
INIT_SCALE = 0.02


class Linear(nnx.Module):
    """An affine map of the last axis, `x @ kernel + bias`, with the kernel stored as [in, out].

    Args:
        ins: size of the last axis of the input.
        outs: size of the last axis of the output.
        dtype: name of the type of the operands and of the output.
        rngs: source of the initial kernel.
    """

    def __init__(self, ins: int, outs: int, *, dtype: str, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.normal(INIT_SCALE)
        self.kernel = nnx.Param(init(rngs.params(), (ins, outs), jnp.dtype(dtype)))
        self.bias = nnx.Param(jnp.zeros(outs, dtype))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*batch ins"]) -> Float[Array, "*batch outs"]:
        """Maps the last axis."""
        outs = product("...i,io->...o", x, self.kernel[...], self.dtype)
        return (outs + self.bias[...]).astype(self.dtype)


class LayerNorm(nnx.Module):
    """Layer normalisation of the last axis, computed in at least float32 (Ba et al., 2016).

    Args:
        dim: size of the last axis.
        eps: added to the variance.
        dtype: name of the type of the output.
    """

    def __init__(self, dim: int, *, eps: float, dtype: str) -> None:
        self.scale = nnx.Param(jnp.ones(dim, dtype))
        self.bias = nnx.Param(jnp.zeros(dim, dtype))
        self.eps = eps
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        """Normalises the last axis."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        x = x - x.mean(-1, keepdims=True)
        x = x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps)
        return (x * self.scale[...] + self.bias[...]).astype(self.dtype)


class Embedding(nnx.Module):
    """A table of vectors looked up by row.

    Args:
        rows: number of vectors.
        dim: size of a vector.
        dtype: name of the type of the output.
        rngs: source of the initial table.
    """

    def __init__(self, rows: int, dim: int, *, dtype: str, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.normal(INIT_SCALE)
        self.embedding = nnx.Param(init(rngs.params(), (rows, dim), jnp.dtype(dtype)))
        self.dtype = dtype

    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch dim"]:
        """Looks up the vector of each id."""
        return jnp.take(self.embedding[...], ids, axis=0).astype(self.dtype)
