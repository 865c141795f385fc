"""Int8: 8-bit codes with one fp32 scale for each block of inputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lora_jax.quantization.blocks import (
    divided,
    into_blocks,
    largest,
    multiplied,
    out_of_blocks,
    stored_bytes,
)


@dataclasses.dataclass(frozen=True)
class Int8:
    """A weight ``[*stack, in, out]`` as ``round(127 · w / absmax)`` of its block.

    Attributes:
      codes: int8 ``[*stack, in, out]``, in -127 … 127.
      scales: fp32 ``[*stack, in / block, out]``, absmax / 127.
      dtype: of the dense weight.
    """

    codes: Any
    scales: Any
    dtype: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    @property
    def ndim(self) -> int:
        return len(self.codes.shape)

    @property
    def leading(self) -> int:
        return self.ndim - 2

    @property
    def block(self) -> int:
        return self.codes.shape[-2] // self.scales.shape[-2]

    @property
    def nbytes(self) -> int:
        return stored_bytes(self)

    @classmethod
    def quantize(cls, w: Float[Array, "*stack ins outs"], block: int = 64) -> Int8:
        """Quantises a weight; `block` divides its inputs."""
        blocks = into_blocks(w.astype(jnp.float32), block)
        scales = largest(blocks) / 127.0
        codes = jnp.round(divided(blocks, scales)).astype(jnp.int8)
        return cls(out_of_blocks(codes), scales, jnp.dtype(w.dtype))

    def astype(self, dtype: Any) -> Int8:
        """The same codes, for a dense weight of another type."""
        return dataclasses.replace(self, dtype=jnp.dtype(dtype))

    def dequantize(self, dtype: Any = None) -> Float[Array, "*stack ins outs"]:
        """The dense weight, computed in fp32, in `dtype` or its own."""
        blocks = into_blocks(self.codes.astype(jnp.float32), self.block)
        return out_of_blocks(multiplied(blocks, self.scales)).astype(dtype or self.dtype)


jax.tree_util.register_dataclass(Int8, data_fields=["codes", "scales"], meta_fields=["dtype"])
