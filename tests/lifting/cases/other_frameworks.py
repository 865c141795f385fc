"""Equinox and Haiku models."""

from __future__ import annotations

import equinox as eqx
import haiku as hk
import jax

from tests.lifting.cases.case import Case, inputs


def equinox_mlp() -> Case:
    model = eqx.nn.MLP(8, 4, 16, 2, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_array)
    return Case(
        lambda params, x: jax.vmap(eqx.combine(params, static))(x),
        params,
        (inputs(5, 8),),
        targets=(r"layers/\d/weight",),
    )


def haiku_mlp() -> Case:
    def forward(x):
        return hk.nets.MLP([12, 4])(x)  # Haiku makes modules inside the transformed function

    model = hk.without_apply_rng(hk.transform(forward))
    x = inputs(5, 8)
    params = model.init(jax.random.key(0), x)
    return Case(model.apply, params, (x,), targets=(r"mlp/~/linear_\d/w",))


CASES = (equinox_mlp, haiku_mlp)
