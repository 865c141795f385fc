"""NF4 with double quantisation: 4-bit codes, and 8-bit codes of their scales.

Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314, section 3. The
blocks and their order are those of bitsandbytes on the transposed matrix, as torch stores it.
"""

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
from lora_jax.quantization.codes import NF4, dynamic_tree, midpoints

# How many scales share one scale of their own.
GROUP = 256

_SCALE_TABLE = dynamic_tree()


@dataclasses.dataclass(frozen=True)
class Nf4:
    """A weight ``[*stack, in, out]`` in 4 bits, and 8 more for each block of inputs.

    With blocks of 64 it takes 4 + 8/64 + 32/(64 · 256) ≈ 4.127 bits for each weight.

    Attributes:
      codes: uint8 ``[*stack, in / 2, out]``; the high four bits are those of the even input.
      scales: uint8 ``[*stack, in / block, out]``, codes of the blocks' absmax.
      groups: fp32 ``[*stack, n]``, one scale for 256 scales, counted along the inputs first.
      offset: fp32 ``[*stack]``, the mean absmax, taken off before the scales were quantised.
      dtype: of the dense weight.
    """

    codes: Any
    scales: Any
    groups: Any
    offset: Any
    dtype: Any

    @property
    def shape(self) -> tuple[int, ...]:
        *stack, half, outs = self.codes.shape
        return (*stack, 2 * half, outs)

    @property
    def ndim(self) -> int:
        return len(self.codes.shape)

    @property
    def leading(self) -> int:
        return self.ndim - 2

    @property
    def block(self) -> int:
        return self.shape[-2] // self.scales.shape[-2]

    @property
    def nbytes(self) -> int:
        return stored_bytes(self)

    @classmethod
    def quantize(cls, w: Float[Array, "*stack ins outs"], block: int = 64) -> Nf4:
        """Quantises a weight; `block` is even and divides its inputs."""
        blocks = into_blocks(w.astype(jnp.float32), block)
        absmax = largest(blocks)
        codes = out_of_blocks(_nearest_nf4(divided(blocks, absmax)))
        packed = codes[..., 0::2, :] << 4 | codes[..., 1::2, :]
        return cls(packed, *_quantize_scales(absmax), jnp.dtype(w.dtype))

    def astype(self, dtype: Any) -> Nf4:
        """The same codes, for a dense weight of another type."""
        return dataclasses.replace(self, dtype=jnp.dtype(dtype))

    def dequantize(self, dtype: Any = None) -> Float[Array, "*stack ins outs"]:
        """The dense weight, computed in fp32, in `dtype` or its own."""
        codes = jnp.stack([self.codes >> 4, self.codes & 15], -2).reshape(self.shape)
        values = jnp.asarray(NF4)[codes.astype(jnp.int32)]
        absmax = _dequantize_scales(self.scales, self.groups, self.offset)
        blocks = multiplied(into_blocks(values, self.block), absmax)
        return out_of_blocks(blocks).astype(dtype or self.dtype)


jax.tree_util.register_dataclass(
    Nf4, data_fields=["codes", "scales", "groups", "offset"], meta_fields=["dtype"]
)


def _nearest_nf4(x: Array) -> Array:
    """The code of the nearest value: how many midpoints lie below."""
    code = jnp.zeros(x.shape, jnp.uint8)
    for middle in midpoints(NF4):
        code += (x > middle).astype(jnp.uint8)
    return code


def _quantize_scales(absmax: Float[Array, "*stack count outs"]) -> tuple[Array, Array, Array]:
    """Codes, scales of groups, and the mean, of a matrix of scales."""
    *stack, count, outs = absmax.shape
    offset = absmax.mean((-2, -1))
    flat = (absmax - offset[..., None, None]).swapaxes(-1, -2).reshape(*stack, -1)
    groups = jnp.abs(_grouped(flat)).max(-1)
    ratio = flat / _of_each(jnp.where(groups == 0, 1.0, groups), flat.shape[-1])
    codes = jnp.searchsorted(midpoints(_SCALE_TABLE), ratio).astype(jnp.uint8)
    return codes.reshape(*stack, outs, count).swapaxes(-1, -2), groups, offset


def _dequantize_scales(codes: Array, groups: Array, offset: Array) -> Array:
    *stack, count, outs = codes.shape
    each = _of_each(groups, count * outs).reshape(*stack, outs, count).swapaxes(-1, -2)
    values = jnp.asarray(_SCALE_TABLE)[codes.astype(jnp.int32)]
    return values * each + offset[..., None, None]


def _grouped(flat: Array) -> Array:
    """Rows of 256 scales; the last is filled with zeros."""
    padding = [(0, 0)] * (flat.ndim - 1) + [(0, -flat.shape[-1] % GROUP)]
    return jnp.pad(flat, padding).reshape(*flat.shape[:-1], -1, GROUP)


def _of_each(groups: Array, count: int) -> Array:
    """The group's scale of each of `count` scales."""
    return jnp.repeat(groups, GROUP, axis=-1)[..., :count]
