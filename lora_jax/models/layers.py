"""The small Flax NNX modules that every family is built from."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lora_jax.models.normal import divide_by_size, standardize
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
        bias: whether there is a bias.
    """

    def __init__(
        self, ins: int, outs: int, *, dtype: str, rngs: nnx.Rngs, bias: bool = True
    ) -> None:
        init = nnx.initializers.normal(INIT_SCALE)
        self.kernel = nnx.Param(init(rngs.params(), (ins, outs), jnp.dtype(dtype)))
        self.bias = nnx.Param(jnp.zeros(outs, dtype)) if bias else None
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*batch ins"]) -> Float[Array, "*batch outs"]:
        """Maps the last axis."""
        outs = product("...i,io->...o", x, self.kernel[...], self.dtype)
        if self.bias is not None:
            outs = outs + self.bias[...]
        return outs.astype(self.dtype)


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
        x = standardize(x, self.eps)
        return (x * self.scale[...] + self.bias[...]).astype(self.dtype)


class RMSNorm(nnx.Module):
    """Division of the last axis by its root mean square, in float32 (Zhang and Sennrich, 2019).

    Args:
        dim: size of the last axis.
        eps: added to the mean square.
        dtype: name of the type of the output.
        from_one: the scale is stored as its difference from 1, as Gemma does.
    """

    def __init__(self, dim: int, *, eps: float, dtype: str, from_one: bool = False) -> None:
        self.scale = nnx.Param(jnp.zeros(dim, dtype) if from_one else jnp.ones(dim, dtype))
        self.eps = eps
        self.dtype = dtype
        self.from_one = from_one

    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        """Normalises the last axis."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        x = divide_by_size(x, self.eps)
        scale = self.scale[...].astype(x.dtype)
        return (x * (scale + 1 if self.from_one else scale)).astype(self.dtype)


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
