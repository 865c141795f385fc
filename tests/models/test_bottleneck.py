"""Bottleneck adapters: the control that LoRA's latency is compared with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lora_jax import models
from lora_jax.models.bottleneck import Bottleneck, add_bottlenecks

CONFIG = models.GPT2Config(
    vocab_size=40, dim=16, layers=2, heads=2, ff_dim=24, positions=24, eos_ids=()
)


def test_bottleneck_adapters_are_the_formula_of_their_papers():
    params = models.init(CONFIG, jax.random.key(0))
    ids = jnp.array([[3, 7, 1]])
    deeper, arrays = add_bottlenecks(
        CONFIG, params, jax.random.key(1), width=3, behind=("o_proj", "fc2"), normalized=True
    )
    assert jax.tree.structure(deeper.shapes) == jax.tree.structure(arrays)

    adapter = arrays["layers"]["fc2"]["adapter"]
    x = jax.random.normal(jax.random.key(2), (5, 16))
    first = jax.tree.map(lambda leaf: leaf[0], adapter)
    normed = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    down = normed * first["norm"]["scale"] + first["norm"]["bias"]
    inner = jax.nn.relu(down @ first["down"]["kernel"] + first["down"]["bias"])
    wanted = x + inner @ first["up"]["kernel"] + first["up"]["bias"]
    made = Bottleneck(16, 3, normalized=True, dtype="float32", rngs=nnx.Rngs(0))
    nnx.update(made, nnx.State(first))
    np.testing.assert_allclose(made(x), wanted, atol=1e-6)

    # With nothing to add, the model is the base.
    silent = {
        **arrays,
        "layers": {
            name: {**layer, "adapter": {**layer["adapter"], "up": zeros(layer["adapter"]["up"])}}
            if "adapter" in layer
            else layer
            for name, layer in arrays["layers"].items()
        },
    }
    base = jax.jit(models.build(CONFIG).apply)(params, ids)
    np.testing.assert_array_equal(jax.jit(deeper.apply)(silent, ids), base)
    assert np.abs(jax.jit(deeper.apply)(arrays, ids) - base).max() > 1e-3


def zeros(tree):
    return jax.tree.map(jnp.zeros_like, tree)


def test_bottlenecks_behind_what_is_not_there_are_refused():
    params = models.init(CONFIG, jax.random.key(0))
    key = jax.random.key(1)
    with pytest.raises(ValueError, match="no down_proj; they have fc1, fc2"):
        add_bottlenecks(CONFIG, params, key, width=3, behind=("down_proj",))
    with pytest.raises(ValueError, match="width = 0"):
        add_bottlenecks(CONFIG, params, key, width=0, behind=("fc2",))
