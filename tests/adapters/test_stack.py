"""Many adapters over one base: stacked on a leading axis, mapped over, routed to rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora
from lora_jax.adapters import common_shapes, crop, pad

PARAMS = {
    "embed": jax.random.normal(jax.random.key(0), (16, 8)),
    "layers": 0.4 * jax.random.normal(jax.random.key(1), (3, 8, 8)),
}
IDS = jax.random.randint(jax.random.key(2), (6, 5), 0, 16)


def model(params, ids):
    x = params["embed"][ids]
    x, _ = jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, params["layers"])
    return x.mean(axis=1)


LIFTED = lora.lift(model, PARAMS, IDS, targets=("layers", "embed"), method=lora.LoRA(rank=2))


def adapter(seed):
    factors = LIFTED.init(jax.random.key(seed), PARAMS)
    return jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(seed + leaf.size), leaf.shape),
        factors,
    )


ADAPTERS = [adapter(seed) for seed in range(4)]
STACKED = lora.stack(ADAPTERS)


def test_unstacking_undoes_stacking():
    for adapter, again in zip(ADAPTERS, lora.unstack(STACKED), strict=True):
        jax.tree.map(np.testing.assert_array_equal, adapter, again)


def test_mapped_over_stacked_factors_each_adapter_gives_its_own_outputs():
    together = jax.vmap(LIFTED, in_axes=(None, 0, None))(PARAMS, STACKED, IDS)
    for outputs, factors in zip(together, ADAPTERS, strict=True):
        np.testing.assert_allclose(outputs, LIFTED(PARAMS, factors, IDS), rtol=1e-5, atol=1e-6)


def test_mapped_gradients_are_those_of_each_adapter_alone():
    def loss(factors, ids):
        return jnp.sin(LIFTED(PARAMS, factors, ids)).sum()

    batches = jnp.stack([jnp.roll(IDS, shift, axis=1) for shift in range(4)])
    together = jax.jit(jax.vmap(jax.grad(loss)))(STACKED, batches)
    gradient = jax.jit(jax.grad(loss))
    for each, factors, ids in zip(lora.unstack(together), ADAPTERS, batches, strict=True):
        jax.tree.map(
            lambda actual, expected: np.testing.assert_allclose(
                actual, expected, rtol=1e-4, atol=1e-5
            ),
            each,
            gradient(factors, ids),
        )


def test_each_row_of_a_batch_is_routed_to_its_own_adapter():
    choice = jnp.array([3, 0, 3, 1, 2, 0])

    @jax.jit
    def routed(stacked, choice, ids):
        picked = jax.tree.map(lambda leaf: leaf[choice], stacked)
        return jax.vmap(lambda factors, row: LIFTED(PARAMS, factors, row[None])[0])(picked, ids)

    rows = routed(STACKED, choice, IDS)
    for row, which, ids in zip(rows, choice, IDS, strict=True):
        expected = LIFTED(PARAMS, ADAPTERS[which], ids[None])[0]
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)


def test_choosing_another_adapter_compiles_nothing():
    traces = []

    @jax.jit
    def routed(stacked, choice, ids):
        traces.append(choice)
        picked = jax.tree.map(lambda leaf: leaf[choice], stacked)
        return jax.vmap(lambda factors, row: LIFTED(PARAMS, factors, row[None])[0])(picked, ids)

    for shift in range(3):
        routed(STACKED, jnp.roll(jnp.arange(6) % 4, shift), IDS)
    assert len(traces) == 1


def test_no_base_weight_is_copied_for_each_adapter():
    """The products with W see one W, whatever the number of adapters."""
    run = jax.vmap(LIFTED, in_axes=(None, 0, None))
    text = jax.jit(run).lower(PARAMS, STACKED, IDS).compile().as_text()
    assert "f32[4,8,8]" not in text
    assert "f32[4,3,8,8]" not in text


def test_stacking_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to stack"):
        lora.stack([])


def test_adapters_of_unequal_ranks_are_refused_with_the_leaf_that_differs():
    other = lora.lift(model, PARAMS, IDS, targets=("layers", "embed"), method=lora.LoRA(rank=3))
    with pytest.raises(ValueError, match=r"tree 1.*\[16, 3\]|tree 1.*\[16, 2\]"):
        lora.stack([ADAPTERS[0], other.init(jax.random.key(0), PARAMS)])


def test_adapters_of_other_weights_are_refused():
    other = lora.lift(model, PARAMS, IDS, targets=("layers",), method=lora.LoRA(rank=2))
    with pytest.raises(ValueError, match="structures differ"):
        lora.stack([ADAPTERS[0], other.init(jax.random.key(0), PARAMS)])


def test_unstacking_what_has_no_common_axis_is_refused():
    with pytest.raises(ValueError, match="no common leading axis"):
        lora.unstack({"a": jnp.ones((2, 3)), "b": jnp.ones((3, 3))})


def test_count_parameters_counts_every_entry():
    assert lora.count_parameters(ADAPTERS[0]) == (16 * 2 + 2 * 8) + 3 * (8 * 2 + 2 * 8)


def test_a_padded_adapter_does_the_same_and_cropping_undoes_padding():
    wide = lora.LoRA(rank=5, alpha=16.0 * 5 / 2)  # the scale of rank 2
    larger = lora.lift(model, PARAMS, IDS, targets=("layers", "embed"), method=wide)
    padded = pad(ADAPTERS[0], {site.path: dict(site.arrays) for site in larger.sites})
    outputs = larger(PARAMS, padded, IDS)
    np.testing.assert_allclose(outputs, LIFTED(PARAMS, ADAPTERS[0], IDS), rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, crop(padded, ADAPTERS[0]), ADAPTERS[0])


def test_what_cannot_be_padded_is_refused():
    one = {"a": np.ones((2, 3), np.float32)}
    with pytest.raises(ValueError, match=r"array \(2, 3\) is larger than \(2, 2\)"):
        pad(one, {"a": np.ones((2, 2))})
    with pytest.raises(ValueError, match=r"'a' is not among \['b'\]"):
        pad(one, {"b": np.ones((2, 3))})
    with pytest.raises(ValueError, match="float32 of 1 axes and float32 of 2 axes"):
        common_shapes([one, {"a": np.ones(2, np.float32)}])
