"""The best learning rate of a grid, against parabolas whose vertex is known."""

import numpy as np
import pytest

from lora_jax.analysis.optimum import early_spread, fit_optimum, optimum_ratio

RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]


def parabola(best, noise=0.0, seeds=5):
    """Losses of each seed that are lowest at a rate."""
    random = np.random.default_rng(0)
    exact = 1 + (np.log(RATES) - np.log(best)) ** 2
    return exact + noise * random.normal(size=(seeds, len(RATES)))


@pytest.mark.parametrize("best", [4e-4, 1e-3, 2e-3])
def test_the_vertex_of_a_parabola_is_found_exactly(best):
    found = fit_optimum(RATES, parabola(best))
    assert found.rate.mean == pytest.approx(best)
    assert found.rate.low == pytest.approx(found.rate.high)
    assert not found.at_edge


def test_noise_between_seeds_widens_the_interval_around_the_truth():
    narrow, wide = (fit_optimum(RATES, parabola(1e-3, noise)).rate for noise in (0.02, 0.4))
    assert narrow.contains(1e-3)
    assert wide.high / wide.low > narrow.high / narrow.low > 1


def test_an_optimum_at_the_end_of_the_grid_is_said_to_be_there():
    found = fit_optimum(RATES, parabola(1.0))
    assert found.at_edge
    assert found.rate.mean == RATES[-1]


def test_a_rate_that_diverged_with_one_seed_is_ruled_out():
    losses = parabola(3e-3)
    losses[2, 3] = np.nan
    found = fit_optimum(RATES, losses)
    assert found.rate.mean in (RATES[2], RATES[4])


def test_the_ratio_is_that_of_the_vertices_and_its_interval_holds_it():
    ratio = optimum_ratio((RATES, parabola(2e-3, 0.02)), (RATES, parabola(4e-4, 0.02)))
    assert ratio.contains(ratio.mean)
    assert ratio.mean == pytest.approx(5, rel=0.1)


def test_the_early_spread_is_the_largest_distance_of_mean_curves():
    curves = {"a": np.array([[3.0, 2.0, 1.0]]), "b": np.array([[3.1, 2.3, 9.0], [3.1, 2.1, 9.0]])}
    assert early_spread(curves, 2) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("rates", "losses", "message"),
    [
        ([1e-3, 1e-2], np.ones((2, 2)), "at least three"),
        ([1e-2, 1e-3, 1e-1], np.ones((2, 3)), "the lowest first"),
        (RATES, np.ones((2, 3)), "for 5 rates"),
        (RATES, np.full((2, 5), np.nan), "no rate has a finite loss"),
    ],
)
def test_what_has_no_optimum_is_refused(rates, losses, message):
    with pytest.raises(ValueError, match=message):
        fit_optimum(rates, losses)


def test_grids_of_different_seeds_have_no_common_ratio():
    with pytest.raises(ValueError, match="5 seeds of one grid, 3 of the other"):
        optimum_ratio((RATES, parabola(1e-3)), (RATES, parabola(1e-3, seeds=3)))
