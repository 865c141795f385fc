"""Merging: the base is never touched, NaN is refused, rounding is measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora

X = jax.random.normal(jax.random.key(3), (5, 8))


def base(dtype=jnp.float32):
    params = {
        "layers": 0.4 * jax.random.normal(jax.random.key(1), (3, 8, 8)),
        "out": jax.random.normal(jax.random.key(2), (8, 6)),
    }
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def model(params, x):
    x = x.astype(params["out"].dtype)
    x, _ = jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, params["layers"])
    return (x @ params["out"]).astype(jnp.float32)


def adapter(params, seed, size=0.1):
    lifted = lora.lift(model, params, X, method=lora.LoRA(2, 2.0), targets=("layers", "out"))
    rng = np.random.default_rng(seed)
    noise = lambda leaf: jnp.asarray(size * rng.normal(size=leaf.shape), jnp.float32)
    return lifted, jax.tree.map(noise, {site.path: dict(site.arrays) for site in lifted.sites})


def bits(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf).view(np.uint8).copy(), params)


def test_after_a_hundred_merges_and_switches_the_base_is_bit_identical():
    params = base(jnp.bfloat16)
    before = bits(params)
    lifted, one = adapter(params, 0)
    _, other = adapter(params, 1)
    first = bits(lifted.merge(params, one))
    for turn in range(100):
        merged = lifted.merge(params, (one, other)[turn % 2])
    jax.tree.map(np.testing.assert_array_equal, bits(params), before)
    jax.tree.map(np.testing.assert_array_equal, bits(lifted.merge(params, one)), first)
    assert not np.array_equal(bits(merged)["out"], first["out"])


@pytest.mark.parametrize(("dtype", "epsilon"), [("float32", 2.0**-23), ("bfloat16", 2.0**-7)])
def test_unmerging_is_exact_to_the_stated_error(dtype, epsilon):
    params = base(dtype)
    lifted, factors = adapter(params, 0, size=1.0)
    merged = lifted.merge(params, factors)
    again = lifted.unmerge(merged, factors)
    wide = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
    for w, new, back in zip(*map(jax.tree.leaves, map(wide, (params, merged, again))), strict=True):
        bound = epsilon * (np.abs(new) + np.abs(w) + np.abs(new - w))
        assert (np.abs(back - w) <= bound).all()
    assert dtype == "float32" or not np.array_equal(bits(again)["out"], bits(params)["out"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["factors", "base"])
def test_nan_and_infinity_refuse_to_merge_and_name_the_weight(bad, where):
    params = base()
    lifted, factors = adapter(params, 0)
    if where == "factors":
        factors["layers"]["b"] = factors["layers"]["b"].at[1, 0, 0].set(bad)
    else:
        params["layers"] = params["layers"].at[1, 0, 0].set(bad)
    for change in (lifted.merge, lifted.unmerge):
        with pytest.raises(ValueError, match="'layers' would hold NaN or Inf in float32"):
            change(params, factors)
    assert jnp.isnan(jax.jit(lifted.merge)(params, factors)["layers"]).any() or bad == np.inf


def test_a_change_too_large_for_the_type_of_the_weight_refuses_to_merge():
    params = base(jnp.float16)
    lifted, factors = adapter(params, 0, size=300.0)
    with pytest.raises(ValueError, match="too large for that type"):
        lifted.merge(params, factors)


def test_the_report_holds_the_largest_differences_of_outputs_and_weights():
    params = base(jnp.bfloat16)
    lifted, factors = adapter(params, 0)
    merged = lifted.merge(params, factors)
    report = lora.merge_report(lifted, params, factors, X)
    apart = jax.jit(lifted)(params, factors, X)
    together = jax.jit(model)(merged, X)
    assert report.output == float(jnp.abs(apart - together).max()) > 0
    assert report.scale == float(jnp.abs(apart).max())
    for path, w in params.items():
        exact = w.astype(jnp.float32) + factors[path]["a"] @ factors[path]["b"]
        rounding = float(jnp.abs(merged[path].astype(jnp.float32) - exact).max())
        assert abs(report.rounding[path] - rounding) <= 1e-6
        largest = float(jnp.abs(exact).max())
        assert 0 < report.rounding[path] <= 2.0**-8 * largest  # half a unit in the last place
        np.testing.assert_allclose(
            report.change[path], float(jnp.abs(exact - w.astype(jnp.float32)).max()), rtol=1e-5
        )
    assert "outputs differ by at most" in str(report)


def test_in_fp32_merged_and_unmerged_agree_to_rounding():
    params = base()
    report = lora.merge_report(*_with(params), X)
    assert report.output <= 1e-5 * report.scale
    assert max(report.rounding.values()) == 0.0


def _with(params):
    lifted, factors = adapter(params, 0)
    return lifted, params, factors
