"""Blocks of a matrix along its inputs, which share one scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


def into_blocks(w: Float[Array, "*stack ins outs"], block: int) -> Float[Array, "..."]:
    """Splits the inputs into blocks: `[*stack, ins / block, block, outs]`."""
    *stack, ins, outs = w.shape
    return w.reshape(*stack, ins // block, block, outs)


def out_of_blocks(blocks: Shaped[Array, "..."]) -> Shaped[Array, "*stack ins outs"]:
    """The inverse of `into_blocks`."""
    *stack, count, block, outs = blocks.shape
    return blocks.reshape(*stack, count * block, outs)


def largest(blocks: Float[Array, "..."]) -> Float[Array, "*stack count outs"]:
    """The largest magnitude in each block."""
    return jnp.abs(blocks).max(-2)


def divided(blocks: Float[Array, "..."], scales: Float[Array, "..."]) -> Float[Array, "..."]:
    """Each block over its scale; a block of zeros stays as it is."""
    return blocks / jnp.where(scales == 0, 1.0, scales)[..., None, :]


def multiplied(blocks: Float[Array, "..."], scales: Float[Array, "..."]) -> Float[Array, "..."]:
    """Each block times its scale."""
    return blocks * scales[..., None, :]


def check_blocks(shape: Sequence[int], dtype: Any, block: int) -> None:
    """Checks that a weight can be cut into blocks.

    Raises:
      ValueError: it is no matrix of floats, or `block` does not divide its inputs.
    """
    if not isinstance(block, int) or isinstance(block, bool) or block < 2 or block % 2:
        raise ValueError(f"block must be an even number of inputs, such as 64, not {block!r}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"is of type {jnp.dtype(dtype).name}: only floats are quantised")
    if len(shape) < 2:
        raise ValueError(f"has shape {tuple(shape)}, which is no matrix [..., in, out]")
    if shape[-2] % block:
        fits = [n for n in (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2) if shape[-2] % n == 0]
        near = f"block={min(fits, key=lambda n: abs(n - block))} does" if fits else "no block does"
        raise ValueError(
            f"has shape {tuple(shape)}: block={block} does not divide its {shape[-2]} inputs; "
            f"{near}, or keep it"
        )


def stored_bytes(weight: Any) -> int:
    """The bytes of a packed weight's arrays; abstract ones count as if they were there."""
    return sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(weight))
