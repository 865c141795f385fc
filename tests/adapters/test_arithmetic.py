"""Arithmetic on adapters: what is exact, what DARE does on average, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters.quick import combine, quick

import lora_jax as lora
from lora_jax.adapters import pruning, scale

PARAMS = {
    "layers": 0.4 * jax.random.normal(jax.random.key(1), (3, 8, 8)),
    "out": jax.random.normal(jax.random.key(2), (8, 5)),
}
X = jax.random.normal(jax.random.key(3), (6, 8))


def model(params, x):
    x, _ = jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, params["layers"])
    return x @ params["out"]


def adapter(seed, method, targets=("layers", "out"), params=PARAMS):
    """A trained adapter: no array is zero."""
    lifted = lora.lift(model, params, X, method=method, targets=targets)
    shapes = {site.path: dict(site.arrays) for site in lifted.sites}
    noise = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)
    rng = np.random.default_rng(seed)
    return lifted, jax.tree.map(noise, shapes)


FIRST = adapter(0, lora.LoRA(2, 6.0))
SECOND = adapter(1, lora.LoRA(2, 1.0, rs=True))
OTHER = adapter(2, lora.LoRA(3, 5.0), targets=("out",))
LAYERED = adapter(3, lora.LoRA(ranks=(2, 0, 1), alphas=(1.0, 2.0, 3.0)), targets=("layers",))


def change(adapter, path):
    lifted, factors = adapter
    if path not in factors:
        return 0.0
    return np.asarray(quick(lifted.merge, PARAMS, factors)[path] - PARAMS[path])


@pytest.mark.parametrize("weight", [2.5, 0.0, -1.0])
def test_scaling_scales_the_change(weight):
    lifted, factors = FIRST
    scaled = (lifted, scale(lifted, factors, weight))
    for path in PARAMS:
        np.testing.assert_allclose(change(scaled, path), weight * change(FIRST, path), atol=1e-4)


@pytest.mark.parametrize("kind", ["cat", "svd"])
def test_sums_of_changes_of_any_rank_scale_and_sites_are_exact(kind):
    """Ranks add up, or are as large as the matrix: nothing is lost, whatever the layers."""
    adapters, weights = [FIRST, SECOND, OTHER, LAYERED], [1.0, -0.5, 2.0, 0.7]
    rank = {"rank": 5} if kind == "svd" else {}
    combined = combine(adapters, weights, kind, **rank)
    for path in PARAMS:
        wanted = sum(w * change(one, path) for w, one in zip(weights, adapters, strict=True))
        if kind == "svd":
            u, s, vt = np.linalg.svd(wanted, full_matrices=False)
            wanted = (u[..., :5] * s[..., None, :5]) @ vt[..., :5, :]
        np.testing.assert_allclose(change(combined, path), wanted, atol=1e-4)
    assert {site.method.scale for site in combined[0].sites} == {1.0}


def test_ranks_that_add_up_to_more_than_the_matrix_holds_are_packed_without_loss():
    adapters = [FIRST, SECOND, OTHER]
    combined = combine(adapters)
    ranks = {site.path: site.method.rank for site in combined[0].sites}
    assert ranks == {"layers": 4, "out": 5}
    np.testing.assert_allclose(
        change(combined, "out"), sum(change(one, "out") for one in adapters), atol=1e-5
    )


def test_a_linear_combination_is_of_the_factors_with_the_roots_of_weights():
    lifted, factors = combine([FIRST, SECOND], [0.5, -2.0], "linear")
    roots = np.sqrt([0.5 * 6.0 / 2, 2.0 * 1.0 / np.sqrt(2)])
    arrays = [factors["out"] for _, factors in (FIRST, SECOND)]
    a = roots[0] * arrays[0]["a"] - roots[1] * arrays[1]["a"]
    b = roots[0] * arrays[0]["b"] + roots[1] * arrays[1]["b"]
    np.testing.assert_allclose(factors["out"]["a"], a, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(factors["out"]["b"], b, rtol=1e-5, atol=1e-6)
    assert lifted.sites[0].method.scale == 1.0


@pytest.mark.parametrize("kind", ["ties", "magnitude_prune", "dare_linear", "dare_ties"])
def test_keeping_everything_prunes_nothing(kind):
    key = jax.random.key(0)
    found = combine([FIRST, SECOND], [0.5, 2.0], kind, density=1.0, key=key)
    wanted = combine([FIRST, SECOND], [0.5, 2.0], "linear")
    if kind.endswith("ties"):  # where signs agree it is their mean
        a, b = (np.asarray(f["out"]["a"]) for _, f in (FIRST, SECOND))
        agree = np.sign(a) == np.sign(b)
        half = np.asarray(wanted[1]["out"]["a"])[agree] / 2
        np.testing.assert_allclose(np.asarray(found[1]["out"]["a"])[agree], half, rtol=1e-5)
        assert 0 < agree.mean() < 1
    else:
        np.testing.assert_allclose(change(found, "out"), change(wanted, "out"), rtol=1e-5)


def test_dare_keeps_a_share_of_entries_and_the_mean_of_all():
    tasks = jnp.ones((2, 100, 100))
    kept = np.asarray(pruning.keep_random(jax.random.key(0), tasks, 0.3))
    assert set(np.unique(kept)) == {0.0, np.float32(1 / 0.3)}
    assert abs((kept > 0).mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / kept.size)
    assert abs(kept.mean() - 1.0) < 4 * np.sqrt(0.7 / 0.3 / kept.size)


def test_dare_draws_anew_for_each_site_layer_and_key_and_again_for_the_same_key():
    one = lambda key: combine([FIRST], None, "dare_linear_svd", rank=5, density=0.5, key=key)
    first, again, other = one(jax.random.key(0)), one(jax.random.key(0)), one(jax.random.key(1))
    np.testing.assert_array_equal(change(first, "layers"), change(again, "layers"))
    assert np.abs(change(first, "layers") - change(other, "layers")).max() > 0.1


def test_the_largest_entries_stay():
    tasks = jnp.array([[[3.0, -5.0], [1.0, 2.0]]])
    np.testing.assert_array_equal(pruning.keep_largest(tasks, 0.6), [[[3.0, -5.0], [0.0, 0.0]]])
    assert not pruning.keep_largest(tasks, 0.2).any()


# ---------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("adapters", "options", "message"),
    [
        ([], {}, "nothing to combine"),
        ([FIRST, SECOND], {"weights": [1.0]}, "1 weights were given for 2 adapters"),
        ([FIRST], {"kind": "average"}, "unknown kind 'average': it is one of cat, "),
        ([FIRST, OTHER], {"kind": "linear"}, r"ranks must be equal.*'out'.*\[2, 3\].*'cat'"),
        ([FIRST], {"kind": "ties"}, "'ties' needs a density"),
        ([FIRST], {"kind": "ties", "density": 1.5}, r"\[0, 1\] for 'ties', not 1.5"),
        ([FIRST], {"kind": "ties_svd", "density": -0.1}, r"\[0, 1\].*not -0.1"),
        ([FIRST], {"kind": "dare_ties", "density": 0.0}, r"\(0, 1\] for 'dare_ties', not 0.0"),
        ([FIRST], {"kind": "dare_linear", "density": 0.5}, "at random: give a key"),
        ([FIRST], {"kind": "cat", "density": 0.5}, "'cat' prunes nothing"),
        ([FIRST], {"kind": "svd", "rank": 6}, "rank 6 is larger than 'out' allows: at most 5"),
        ([FIRST], {"kind": "svd", "rank": 0}, "rank must be.*not 0"),
        ([FIRST], {"kind": "linear", "rank": 2}, "'linear' decides its own"),
        ([FIRST], {"kind": "ties", "density": 0.5, "majority": "most"}, "'total' or 'freq.*'most'"),
        ([LAYERED], {"kind": "ties", "density": 0.5}, "ranks of their own: use ties_svd"),
    ],
)
def test_what_cannot_be_combined_is_refused(adapters, options, message):
    options = dict(options)
    with pytest.raises(ValueError, match=message):
        lora.combine(adapters, options.pop("weights", None), **options)


def test_other_methods_other_bases_and_missing_factors_are_refused():
    dora = adapter(0, lora.DoRA(2))
    with pytest.raises(ValueError, match=r"'layers' is adapted by DoRA.*to_lora first"):
        lora.combine([FIRST, dora])
    with pytest.raises(ValueError, match="to_lora first"):
        scale(*adapter(0, lora.PiSSA(2)), 2.0)
    larger = PARAMS | {"layers": jnp.ones((4, 8, 8))}
    with pytest.raises(ValueError, match=r"'layers' is \(4, 8, 8\) in one.*different bases"):
        lora.combine([FIRST, adapter(0, lora.LoRA(2), params=larger)])
    with pytest.raises(ValueError, match="no entry for 'out'"):
        lora.combine([(FIRST[0], {"layers": FIRST[1]["layers"]})])
