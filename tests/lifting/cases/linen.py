"""Flax Linen models, as a user writes them."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from tests.lifting.cases.case import Case, inputs, tokens


def linen_case(module: nn.Module, *args: Any, targets: tuple[str, ...], **more: Any) -> Case:
    """The case of a Linen module with its own initial params."""
    params = jax.jit(module.init)(jax.random.key(1), *args)["params"]
    return Case(
        lambda params, *args: module.apply({"params": params}, *args), params, args, targets, **more
    )


def linen_dense() -> Case:
    return linen_case(nn.Dense(12), inputs(4, 8), targets=("kernel",))


class HeadsAndBack(nn.Module):
    """Splits the features into heads with one DenseGeneral and joins them with another."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        heads = nn.DenseGeneral((3, 4))(x)
        return nn.DenseGeneral(8, axis=(-2, -1))(nn.gelu(heads))


def linen_dense_general() -> Case:
    targets = ("DenseGeneral_0/kernel", "DenseGeneral_1/kernel")
    return linen_case(HeadsAndBack(), inputs(2, 5, 8), targets=targets)


def linen_dense_general_with_batch_axes() -> Case:
    module = nn.DenseGeneral(6, batch_dims=(0,), axis=-1)
    return linen_case(module, inputs(3, 5, 8), targets=("kernel",))


def linen_einsum() -> Case:
    return linen_case(nn.Einsum((8, 3, 4), "btd,dhk->bthk"), inputs(2, 5, 8), targets=("kernel",))


class TiedEmbedding(nn.Module):
    """Looks tokens up in a table and scores them with the same table."""

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        embed = nn.Embed(16, 8)
        hidden = nn.Dense(8)(nn.tanh(embed(ids) * 8**0.5))
        return embed.attend(hidden)


def linen_tied_embedding() -> Case:
    targets = ("Embed_0/embedding", "Dense_0/kernel")
    return linen_case(TiedEmbedding(), tokens(2, 5), targets=targets)


def linen_conv_2d_strided() -> Case:
    return linen_case(nn.Conv(6, (3, 3), strides=2), inputs(2, 9, 9, 4), targets=("kernel",))


def linen_conv_1d_dilated_causal() -> Case:
    module = nn.Conv(6, (3,), kernel_dilation=2, padding="CAUSAL")
    return linen_case(module, inputs(2, 9, 4), targets=("kernel",))


def linen_attention() -> Case:
    module = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)
    return linen_case(
        module,
        inputs(2, 5, 8),
        targets=("query/kernel", "key/kernel", "value/kernel", "out/kernel"),
    )


class Block(nn.Module):
    """A pre-norm transformer block."""

    dim: int = 8

    @nn.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        hidden = nn.gelu(nn.Dense(4 * self.dim)(nn.LayerNorm()(x)))
        return x + nn.Dense(self.dim)(hidden), None


class Transformer(nn.Module):
    """Rematerialised blocks, scanned or unrolled, between a tied embedding."""

    layers: int = 2
    dim: int = 8
    scan: bool = True

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        embed = nn.Embed(16, self.dim)
        block = nn.remat(Block, prevent_cse=not self.scan)
        x = embed(ids)
        if self.scan:
            scanned = nn.scan(
                block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers
            )
            x, _ = scanned(self.dim, name="layers")(x, None)
        else:
            for i in range(self.layers):
                x, _ = block(self.dim, name=f"layer_{i}")(x)
        return embed.attend(nn.LayerNorm()(x))


BLOCK_KERNELS = (
    "query/kernel",
    "key/kernel",
    "value/kernel",
    "out/kernel",
    "Dense_0/kernel",
    "Dense_1/kernel",
)


def linen_scan_remat() -> Case:
    targets = ("Embed_0/embedding", *BLOCK_KERNELS)
    return linen_case(Transformer(), tokens(2, 5), targets=targets)


def linen_unrolled_remat() -> Case:
    targets = ("Embed_0/embedding", *BLOCK_KERNELS)
    return linen_case(Transformer(scan=False), tokens(2, 5), targets=targets)


CASES = (
    linen_dense,
    linen_dense_general,
    linen_dense_general_with_batch_axes,
    linen_einsum,
    linen_tied_embedding,
    linen_conv_2d_strided,
    linen_conv_1d_dilated_causal,
    linen_attention,
    linen_scan_remat,
    linen_unrolled_remat,
)
