"""Angles of rotary positions are the same looked up, and are computed once for all layers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import lora_jax as lora
from lora_jax.models.rope import Rope, tables

FIXTURES = Path(__file__).parent.parent / "fixtures"


def test_angles_looked_up_are_those_computed():
    positions = jnp.array([[0, 3, 1], [2, 2, 4]])
    for found, wanted in zip(
        tables(Rope(), positions, 8, most=5), tables(Rope(), positions, 8), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def test_unrolled_layers_share_their_angles():
    model = lora.hub.load_model(FIXTURES / "llama", scan=False)
    assert model.config.layers > 1
    ids = jnp.zeros((2, 6), jnp.int32)
    compiled = jax.jit(model.apply).lower(model.params, ids).compile().as_text()
    assert compiled.count(" cosine(") == 1
