"""Subspaces against closed forms: φ, its chance level, table 7, ranks and intruders."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora
from lora_jax.analysis import spectrum, subspace
from lora_jax.analysis.amplification import (
    amplification,
    chance_projected_norm,
    projected_norm,
)
from lora_jax.analysis.change import Change, decompose, directions
from lora_jax.analysis.intruders import count_intruders, leading_resemblance

M, N, LAYERS, RANK = 24, 20, 3, 4
X = jnp.ones((2, M))


def model(params, x):
    y, _ = jax.lax.scan(lambda y, w: (y + (x @ w).sum(), None), jnp.zeros(()), params["layers"])
    return x @ params["out"] + y + params["bias"]


def base():
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "layers": jax.random.normal(keys[0], (LAYERS, M, N)),
        "out": jax.random.normal(keys[1], (M, M)),
        "bias": jnp.zeros(M),
    }


PARAMS = base()


def adapter(method, seed=1, size=0.1, targets=("layers", "out")):
    lifted = lora.lift(model, PARAMS, X, method=method, targets=targets)
    rng = np.random.default_rng(seed)
    noise = lambda leaf: jnp.asarray(size * rng.normal(size=leaf.shape), leaf.dtype)
    return lifted, jax.tree.map(noise, {site.path: dict(site.arrays) for site in lifted.sites})


def formed(lifted, factors):
    """ΔW the long way."""
    merged = lifted.merge(PARAMS, factors)
    return {
        "layers": np.asarray(merged["layers"] - PARAMS["layers"]),
        "out": np.asarray(merged["out"] - PARAMS["out"])[None],
    }


# -- φ


def test_phi_is_the_mean_squared_cosine_of_the_principal_angles():
    one = subspace.random_directions(jax.random.key(0), LAYERS, M, 3)
    other = subspace.random_directions(jax.random.key(1), LAYERS, M, 5)
    phi = subspace.similarity(one, other)
    for i, j in ((1, 1), (2, 4), (3, 5)):
        angles = subspace.principal_angles(one[..., :i], other[..., :j])
        assert angles.shape == (LAYERS, min(i, j))
        np.testing.assert_allclose(phi[:, i - 1, j - 1], (jnp.cos(angles) ** 2).mean(-1), rtol=1e-5)


def test_phi_is_one_for_a_subspace_that_is_held_and_zero_for_an_orthogonal_one():
    basis = subspace.random_directions(jax.random.key(0), 1, M, 8)
    turned = basis[..., :3] @ subspace.random_directions(jax.random.key(1), 1, 3, 3)
    np.testing.assert_allclose(subspace.similarity(turned, basis)[0, 2, 2:], 1, atol=1e-5)
    np.testing.assert_allclose(subspace.similarity(turned, basis[..., 3:]), 0, atol=1e-6)
    # 1 − d²/p, with the projection metric d² = p − Σσ² (appendix G, without its typo).
    sines = jnp.sin(subspace.principal_angles(basis[..., :3], basis[..., 2:5]))
    distance = (sines**2).sum()
    assert subspace.similarity(basis[..., :3], basis[..., 2:5])[0, 2, 2] == pytest.approx(
        float(1 - distance / 3), abs=1e-5
    )


def test_phi_of_independent_subspaces_has_the_mean_and_deviation_of_chance():
    draws, dim, p, q = 4000, 12, 3, 7
    one = subspace.random_directions(jax.random.key(0), draws, dim, p)
    fixed = jnp.broadcast_to(jnp.eye(dim)[:, :q], (draws, dim, q))  # one random side is enough
    phi = np.asarray(subspace.similarity(one, fixed))
    mean, deviation = subspace.chance_level(p, q, dim), subspace.chance_deviation(p, q, dim)
    assert mean[1, 4] == 5 / 12
    assert np.abs((phi.mean(0) - mean) / (deviation / np.sqrt(draws))).max() < 4.5
    np.testing.assert_allclose(phi.std(0), deviation, rtol=0.06)
    assert np.abs(subspace.above_chance(phi, dim).mean(0)).max() < 0.03


def test_nothing_can_be_said_where_a_subspace_is_the_whole_space():
    whole = jnp.eye(4)[None]
    corrected = subspace.above_chance(subspace.similarity(whole[..., :2], whole), 4)
    assert np.isnan(corrected[0, :, 3]).all()
    assert np.isfinite(corrected[0, :, :3]).all()
    np.testing.assert_allclose(subspace.chance_deviation(2, 4, 4)[:, 3], 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: subspace.chance_level(1, 9, 8), "between 1 and 8 fit a space of 8"),
        (lambda: subspace.chance_deviation(1, 1, 1), "one direction only"),
        (lambda: subspace.random_directions(jax.random.key(0), 1, 4, 5), "between 1 and 4"),
        (lambda: subspace.similarity(jnp.eye(3), jnp.eye(4)), "different spaces"),
        (lambda: spectrum.energy_rank(jnp.ones((1, 2)), 0.0), "energy must lie"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        call()


# -- table 7


def test_the_random_column_of_table_7_is_its_closed_form():
    draws, rank = 2000, 3
    w = jnp.broadcast_to(PARAMS["layers"][0], (draws, M, N))
    left = subspace.random_directions(jax.random.key(0), draws, M, rank)
    right = subspace.random_directions(jax.random.key(1), draws, N, rank)
    found = np.asarray(projected_norm(w, left, right), np.float64) ** 2
    expected = float(chance_projected_norm(w[:1], rank, rank)[0]) ** 2
    assert expected == pytest.approx(rank**2 / (M * N) * float((w[0] ** 2).sum()), rel=1e-5)
    assert abs(found.mean() - expected) < 4.5 * found.std() / np.sqrt(draws)


def test_table_7_as_published_agrees_with_the_closed_forms():
    # Hu et al. 2021, table 7: ‖Wq‖ = 61.95 at d = 12,288; random 0.02 for r = 4, 0.33 for r = 64.
    norm, dim = 61.95, 12_288
    one_row = jnp.full((1, 1, 1), norm)
    assert float(chance_projected_norm(one_row, 1, 1)[0]) == pytest.approx(norm)
    assert round(4 * norm / dim, 2) == 0.02
    assert 64 * norm / dim == pytest.approx(0.33, abs=0.01)
    # Amplification: ‖ΔW‖/‖UᵀWV‖ = 6.91/0.32 (printed 21.5) and 3.57/1.90 (printed "about 2").
    assert pytest.approx(21.5, rel=0.01) == 6.91 / 0.32
    assert pytest.approx(1.88, rel=0.01) == 3.57 / 1.90


def test_no_directions_hold_more_of_a_weight_than_its_own():
    lifted, factors = adapter(lora.LoRA(RANK, 8.0))
    changes = decompose(lifted, PARAMS, factors)
    w = PARAMS["layers"]
    values = np.linalg.svd(np.asarray(w), compute_uv=False)
    found = amplification(w, changes["layers"], jax.random.key(0), rank=3)
    np.testing.assert_allclose(found.in_weight, np.sqrt((values[:, :3] ** 2).sum(1)), rtol=1e-5)
    assert (found.in_change < found.in_weight).all()
    assert (found.in_random < found.in_weight).all()
    u, _, vt = np.linalg.svd(np.asarray(w), full_matrices=False)
    own = projected_norm(w, jnp.asarray(u[..., :3]), jnp.asarray(vt[:, :3].swapaxes(1, 2)))
    np.testing.assert_allclose(own, found.in_weight, rtol=1e-5)
    delta = formed(lifted, factors)["layers"]
    np.testing.assert_allclose(found.change_norm, np.linalg.norm(delta, axis=(1, 2)), rtol=1e-4)
    np.testing.assert_allclose(found.factor, found.change_norm / found.in_change)


def test_a_change_that_enlarges_what_w_has_has_the_factor_of_the_enlargement():
    u, s, vt = (jnp.asarray(x) for x in np.linalg.svd(np.asarray(PARAMS["out"])[None]))
    change = Change(u[..., 5:7], 10 * s[..., 5:7], vt[:, 5:7].mT)  # 10 times two parts of W
    found = amplification(PARAMS["out"][None], change, jax.random.key(0))
    np.testing.assert_allclose(found.factor, 10, rtol=1e-4)


def test_more_directions_than_a_change_has_are_refused():
    lifted, factors = adapter(lora.LoRA(RANK), targets=("out",))
    change = decompose(lifted, PARAMS, factors)["out"]
    with pytest.raises(ValueError, match="ΔW has 4 directions"):
        amplification(PARAMS["out"][None], change, jax.random.key(0), rank=5)


# -- decomposition and spectra


@pytest.mark.parametrize("method", [lora.LoRA(RANK, 8.0), lora.LoHa(2), lora.DoRA(2), lora.Full()])
def test_a_change_is_decomposed_whatever_the_method(method):
    lifted, factors = adapter(method)
    changes, dense = decompose(lifted, PARAMS, factors), formed(lifted, factors)
    for path, change in changes.items():
        again = np.asarray((change.left * change.values[:, None]) @ change.right.mT)
        np.testing.assert_allclose(again, dense[path], atol=3e-5)
        values = np.linalg.svd(dense[path], compute_uv=False)[:, : change.values.shape[1]]
        np.testing.assert_allclose(change.values, values, atol=3e-5)


def test_the_change_of_lora_is_never_formed():
    lifted, factors = adapter(lora.LoRA(RANK))
    program = jax.make_jaxpr(lambda factors: decompose(lifted, PARAMS, factors))(factors)
    shapes = {tuple(v.aval.shape)[-2:] for eqn in program.jaxpr.eqns for v in eqn.outvars}
    assert not {(M, N), (M, M)} & shapes
    assert (M, RANK) in shapes


def test_directions_that_a_change_does_not_have_are_zeros():
    lifted, factors = adapter(lora.LoRA(RANK), targets=("out",))
    factors["out"]["b"] = factors["out"]["b"].at[2:].set(0.0)
    change = decompose(lifted, PARAMS, factors)["out"]
    lengths = np.linalg.norm(np.asarray(change.right), axis=1)[0]
    np.testing.assert_allclose(lengths, [1, 1, 0, 0], atol=1e-5)
    start = lifted.init(jax.random.key(0), PARAMS)  # B is zero, and so is ΔW
    assert not np.asarray(decompose(lifted, PARAMS, start)["out"].left).any()


def test_the_sides_of_an_adapter():
    lifted, factors = adapter(lora.LoRA(RANK), targets=("layers",))
    (site,) = lifted.sites
    change = decompose(lifted, PARAMS, factors)["layers"]
    for side, space in (("a", "in"), ("b", "out")):
        factor, delta = (directions(site, change, factors, one) for one in (side, space))
        # A and ΔW have the same inputs, in another order of importance.
        np.testing.assert_allclose(subspace.similarity(factor, delta)[:, -1, -1], 1, atol=1e-4)
        assert (np.asarray(subspace.similarity(factor, delta))[:, 0, 0] < 0.999).any()
    with pytest.raises(ValueError, match="one of a, b, in, out"):
        directions(site, change, factors, "c")
    lifted, factors = adapter(lora.Full(), targets=("layers",))
    change = decompose(lifted, PARAMS, factors)["layers"]
    with pytest.raises(ValueError, match="no factors a and b"):
        directions(lifted.sites[0], change, factors, "a")


def test_factors_of_another_adapter_are_refused():
    lifted, factors = adapter(lora.LoRA(RANK))
    with pytest.raises(ValueError, match="no entry for 'out'"):
        decompose(lifted, PARAMS, {"layers": factors["layers"]})
    other, _ = adapter(lora.LoRA(2))
    with pytest.raises(ValueError, match="another base, rank or targets"):
        decompose(other, PARAMS, factors)
    biases, factors = adapter(lora.Full(), targets=("bias",))
    with pytest.raises(ValueError, match="no adapted weight is a matrix"):
        decompose(biases, PARAMS, factors)


def test_ranks_of_a_spectrum():
    values = jnp.array([[4.0, 4.0, 4.0, 4.0], [4.0, 0.0, 0.0, 0.0], [2.0, 1.0, 0.0, 0.0]])
    np.testing.assert_allclose(spectrum.entropy_rank(values)[:2], [4, 1], rtol=1e-5)
    share = np.array([2, 1]) / 3
    assert float(spectrum.entropy_rank(values)[2]) == pytest.approx(
        np.exp(-(share * np.log(share)).sum())
    )
    np.testing.assert_array_equal(spectrum.energy_rank(values), [4, 1, 2])
    np.testing.assert_array_equal(spectrum.energy_rank(values, 0.7), [3, 1, 1])
    np.testing.assert_allclose(spectrum.stable_rank(values), [4, 1, 1.25])
    assert float(spectrum.entropy_rank(jnp.zeros((1, 3)))[0]) == 0


# -- intruders


def test_intruders_are_counted_where_reduce_intruders_finds_them():
    lifted, factors = adapter(lora.LoRA(RANK, 8.0), size=1.0)
    counted = count_intruders(lifted, PARAMS, factors, top=5)
    found = lora.reduce_intruders(lifted, PARAMS, factors, top=5).intruders
    assert sum(int(n.sum()) for n in counted.values()) > 0
    for path, number in counted.items():
        np.testing.assert_array_equal(number, found[path])


def test_a_change_along_the_weight_itself_brings_no_intruder():
    lifted, factors = adapter(lora.Full(), targets=("out",))
    factors["out"]["d"] = 0.5 * PARAMS["out"]
    np.testing.assert_allclose(leading_resemblance(lifted, PARAMS, factors)["out"], 1, atol=1e-4)
    assert int(count_intruders(lifted, PARAMS, factors)["out"][0]) == 0
    with pytest.raises(ValueError, match="threshold"):
        count_intruders(lifted, PARAMS, factors, threshold=2.0)
    with pytest.raises(ValueError, match="top"):
        count_intruders(lifted, PARAMS, factors, top=0)


def test_layers_of_different_ranks_have_as_many_directions():
    method = dataclasses.replace(lora.LoRA(RANK), ranks=(RANK, 2, RANK), alphas=(4.0, 2.0, 4.0))
    lifted, factors = adapter(method, targets=("layers",))
    change = decompose(lifted, PARAMS, factors)["layers"]
    np.testing.assert_array_equal(
        (np.linalg.norm(np.asarray(change.left), axis=1) > 0.5).sum(1), [4, 2, 4]
    )
