"""Ranks of equal cost, against all that could have been chosen instead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_jax.analysis import rank_within_latency, ranks_of_equal_parameters


@given(st.dictionaries(st.sampled_from("abc"), st.integers(1, 50), min_size=1), st.integers(1, 999))
def test_no_other_rank_comes_nearer_to_the_budget(per_rank, budget):
    for name, rank in ranks_of_equal_parameters(per_rank, budget).items():
        miss = {r: abs(r * per_rank[name] - budget) for r in range(1, budget + 2)}
        assert rank == min(miss, key=lambda r: (miss[r], r))


def test_a_budget_of_no_parameters_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        ranks_of_equal_parameters({"o_proj": 8}, 0)


RATIOS = {2: (1.02, 1.00, 1.04), 8: (1.08, 1.05, 1.12), 32: (1.30, 1.25, 1.35)}


@pytest.mark.parametrize(
    ("limit", "rank", "certain"),
    [(1.5, 32, True), (1.1, 8, False), (1.05, 2, True), (1.01, None, False), (0.9, None, True)],
)
def test_the_largest_rank_within_the_limit_is_taken_and_doubt_is_told(limit, rank, certain):
    fit = rank_within_latency(RATIOS, limit)
    assert (fit.rank, fit.certain) == (rank, certain)
    assert (fit.ratio, fit.low, fit.high) == RATIOS[rank or 2]


def test_noise_that_makes_a_small_rank_slow_does_not_hide_a_larger_one():
    assert rank_within_latency({2: (1.2, 1.1, 1.3), 8: (1.05, 1.0, 1.1)}, 1.1).rank == 8


def test_no_measurement_is_refused():
    with pytest.raises(ValueError, match="no latency was measured"):
        rank_within_latency({}, 1.1)
