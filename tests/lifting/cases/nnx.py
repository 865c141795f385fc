"""Flax NNX models, split once into a graph definition and params."""

from __future__ import annotations

import jax
from flax import nnx

from tests.lifting.cases.case import Case, inputs, tokens


def nnx_case(module: nnx.Module, *args: jax.Array, targets: tuple[str, ...]) -> Case:
    """The case of an NNX module with its own initial params."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    return Case(lambda params, *args: nnx.merge(graph, params, rest)(*args), params, args, targets)


class AttentionModel(nnx.Module):
    """Embedding, attention and a two-layer perceptron, scored by the embedding."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        # Embed casts to the type it was made in: `float` is double where JAX is in x64 mode.
        self.embed = nnx.Embed(16, 8, param_dtype=float, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=8, decode=False, rngs=rngs)
        self.up = nnx.Linear(8, 12, rngs=rngs)
        self.down = nnx.LinearGeneral((3, 4), 8, axis=(-2, -1), rngs=rngs)

    def __call__(self, ids: jax.Array) -> jax.Array:
        x = self.embed(ids)
        x = x + self.attention(x)
        hidden = nnx.gelu(self.up(x))
        return self.embed.attend(self.down(hidden.reshape(*hidden.shape[:-1], 3, 4)))


def nnx_attention() -> Case:
    targets = (
        r"embed/embedding",
        r"attention/(query|key|value|out)/kernel",
        r"(up|down)/kernel",
    )
    return nnx_case(AttentionModel(nnx.Rngs(0)), tokens(2, 5), targets=targets)


class ResidualLayer(nnx.Module):
    """One layer of a residual stack."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + nnx.relu(self.linear(x))


class ScannedStack(nnx.Module):
    """Three layers made by `nnx.vmap` and run by `nnx.scan`."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs: nnx.Rngs) -> ResidualLayer:
            return ResidualLayer(rngs)

        self.layers = make(rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x: jax.Array, layer: ResidualLayer) -> jax.Array:
            return layer(x)

        return forward(x, self.layers)


def nnx_scan() -> Case:
    return nnx_case(ScannedStack(nnx.Rngs(0)), inputs(4, 8), targets=("layers/linear/kernel",))


CASES = (nnx_attention, nnx_scan)
