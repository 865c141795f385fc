"""Equinox and Haiku models."""

from __future__ import annotations

import equinox as eqx
import haiku as hk
import jax

from tests.lifting.cases.case import Case, inputs, tokens


def equinox_mlp() -> Case:
    model = eqx.nn.MLP(8, 4, 16, 2, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_array)
    return Case(
        lambda params, x: jax.vmap(eqx.combine(params, static))(x),
        params,
        (inputs(5, 8),),
        targets=(r"layers/\d/weight",),
    )


class EmbeddingModel(eqx.Module):
    """Equinox layers take one token each, so a model maps them: `vmap` of a look-up of one row."""

    embed: eqx.nn.Embedding
    linear: eqx.nn.Linear

    def __init__(self) -> None:
        self.embed = eqx.nn.Embedding(16, 8, key=jax.random.key(1))
        self.linear = eqx.nn.Linear(8, 8, key=jax.random.key(2))

    def __call__(self, ids: jax.Array) -> jax.Array:
        hidden = jax.vmap(self.linear)(jax.vmap(self.embed)(ids))
        return jax.nn.gelu(hidden) @ self.embed.weight.T


def equinox_mapped_embedding() -> Case:
    params, static = eqx.partition(EmbeddingModel(), eqx.is_array)
    return Case(
        lambda params, ids: jax.vmap(eqx.combine(params, static))(ids),
        params,
        (tokens(2, 5),),
        targets=("embed", "linear"),
    )


def haiku_mlp() -> Case:
    def forward(x):
        return hk.nets.MLP([12, 4])(x)  # Haiku makes modules inside the transformed function

    model = hk.without_apply_rng(hk.transform(forward))
    x = inputs(5, 8)
    params = model.init(jax.random.key(0), x)
    return Case(model.apply, params, (x,), targets=(r"mlp/~/linear_\d/w",))


CASES = (equinox_mlp, equinox_mapped_embedding, haiku_mlp)
