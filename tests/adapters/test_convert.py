"""Any method as a plain LoRA, truncation, and intruder dimensions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters.quick import quick, to_lora

import lora_jax as lora

PARAMS = {
    "layers": 0.4 * jax.random.normal(jax.random.key(1), (3, 8, 6)),
    "bias": jax.random.normal(jax.random.key(2), (6,)),
}
X = jax.random.normal(jax.random.key(3), (5, 8))


def model(params, x):
    return jax.lax.map(lambda w: jnp.tanh(x @ w), params["layers"]) + params["bias"]


def adapter(method, targets="layers"):
    lifted = lora.lift(model, PARAMS, X, method=method, targets=targets)
    shapes = {site.path: dict(site.arrays) for site in lifted.sites}
    rng = np.random.default_rng(0)
    noise = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)
    return lifted, jax.tree.map(noise, shapes)


def change(lifted, factors):
    return np.asarray(quick(lifted.merge, PARAMS, factors)["layers"] - PARAMS["layers"])


@pytest.mark.parametrize(
    ("method", "rank"),
    [
        (lora.LoRA(2, 6.0), 2),
        (lora.LoRA(2, 6.0, rs=True), 2),
        (lora.PiSSA(2, 6.0), 4),
        (lora.PiSSA(4, 6.0), 6),  # twice the rank is more than the matrix holds
        (lora.LoRA(ranks=(2, 0, 1)), 2),
        (lora.VeRA(2), 2),
        (lora.LoHa(2), 4),  # every pair of the ranks of its two factors
    ],
    ids=str,
)
def test_products_of_factors_become_the_same_lora(method, rank):
    before = adapter(method)
    after = to_lora(*before)
    assert {type(site.method) for site in after[0].sites} == {lora.LoRA}
    assert after[0].sites[0].method.rank == rank
    np.testing.assert_allclose(change(*after), change(*before), atol=1e-4)
    np.testing.assert_allclose(
        quick(after[0], PARAMS, after[1], X),
        quick(before[0], PARAMS, before[1], X),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("method", [lora.LoRA(4, 6.0), lora.DoRA(3), lora.Full()], ids=str)
def test_by_rank_it_is_the_nearest_matrix_of_that_rank_in_every_layer(method):
    before = adapter(method)
    after = to_lora(*before, rank=2, params=PARAMS)
    u, s, vt = np.linalg.svd(change(*before), full_matrices=False)
    np.testing.assert_allclose(change(*after), (u[..., :2] * s[:, None, :2]) @ vt[:, :2], atol=1e-4)


def test_by_energy_each_layer_gets_the_smallest_rank_that_holds_it():
    diagonals = np.array([[4.0, 1.0, 0.5, 0.0], [3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    a = np.zeros((3, 8, 4), np.float32)
    a[:, range(4), range(4)] = diagonals
    factors = {"layers": {"a": jnp.asarray(a), "b": jnp.tile(jnp.eye(4, 6), (3, 1, 1))}}
    lifted, _ = adapter(lora.LoRA(4, 4.0))
    # Of the squares: 16, 1, ¼ of 17¼; four of 9; nothing at all, for which one rank is kept.
    for energy, ranks in ((0.9, (1, 4, 1)), (0.95, (2, 4, 1)), (0.7, (1, 3, 1))):
        method = lora.to_lora(lifted, factors, energy=energy)[0].sites[0].method
        assert method.ranks == ranks
    whole = lora.to_lora(lifted, factors, energy=1.0)
    np.testing.assert_allclose(change(*whole), change(lifted, factors), atol=1e-4)


def test_a_conversion_that_makes_no_sense_is_refused():
    lora_adapter, dora, full = adapter(lora.LoRA(2)), adapter(lora.DoRA(2)), adapter(lora.Full())
    refusals = [
        (lora_adapter, {"rank": 2, "energy": 0.5}, "a rank or an energy, not both"),
        (lora_adapter, {"rank": 0}, "rank must be.*not 0"),
        (lora_adapter, {"rank": 7}, "rank 7 is larger than 'layers' allows: at most 6"),
        (lora_adapter, {"energy": 0.0}, r"energy must lie in \(0, 1\], not 0.0"),
        (lora_adapter, {"energy": 1.5}, "not 1.5"),
        (full, {}, "Full at 'layers' is no product of two factors: give a rank or an energy"),
        (dora, {"rank": 2}, r"DoRA.* depends on the weight 'layers': give params"),
        (adapter(lora.Full(), "bias"), {"rank": 1}, "'bias'.*no input and output side"),
    ]
    for given, options, message in refusals:
        with pytest.raises(ValueError, match=message):
            lora.to_lora(*given, **options)


def test_a_method_that_changes_biases_too_is_no_lora():
    params = {"m": {"kernel": PARAMS["layers"][0], "bias": PARAMS["bias"]}}
    f = lambda p, x: x @ p["m"]["kernel"] + p["m"]["bias"]
    lifted = lora.lift(f, params, X, method=lora.IA3(), targets="m")
    with pytest.raises(ValueError, match=r"IA3 changes the bias beside 'm/kernel' too"):
        lora.to_lora(lifted, lifted.init(jax.random.key(0), params), rank=2, params=params)


# ---------------------------------------------------------------------------------------------
# Intruder dimensions


def intruded():
    """In the second layer of three ΔW brings a strong direction that W does not have."""
    sizes = jnp.array([5.0, 4.0, 3.0, 2.0, 1.5, 1.0])
    base = jnp.zeros((8, 6)).at[jnp.arange(6), jnp.arange(6)].set(sizes)
    a = jnp.zeros((3, 8, 2)).at[1, :, 0].set(jnp.ones(8)).at[0, 0, 0].set(1.0)
    b = jnp.zeros((3, 2, 6)).at[1, 0].set(3.0 * jnp.ones(6)).at[0, 0, 0].set(1.0)
    lifted, _ = adapter(lora.LoRA(2, 2.0))
    return lifted, {"layers": jnp.tile(base, (3, 1, 1))}, {"layers": {"a": a, "b": b}}


def test_only_layers_with_intruders_change_and_their_intruders_are_scaled():
    lifted, params, factors = intruded()
    reduced = quick(partial(lora.reduce_intruders, lifted, keep=0.25), params, factors)
    np.testing.assert_array_equal(reduced.intruders["layers"] > 0, [False, True, False])
    for name in ("a", "b"):
        for layer in (0, 2):
            found, given = (f["layers"][name][layer] for f in (reduced.factors, factors))
            np.testing.assert_array_equal(found, given)
    before, after = (lifted.merge(params, f)["layers"][1] for f in (factors, reduced.factors))
    u, s, vt = np.linalg.svd(before)
    assert u[:, 0] @ after @ vt[0] < 0.35 * s[0]


def test_keeping_intruders_whole_keeps_the_change():
    lifted, params, factors = intruded()
    reduced = quick(partial(lora.reduce_intruders, lifted, keep=1.0), params, factors)
    found, wanted = (lifted.merge(params, f)["layers"] for f in (reduced.factors, factors))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"top": 0}, "top"), ({"threshold": 1.5}, "threshold.*1.5"), ({"keep": -0.1}, "keep.*-0.1")],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        lora.reduce_intruders(*intruded(), **options)
