"""Pareto fronts against their definition, and recommendations that heed the interval."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_jax.analysis import Candidate, pareto_front, recommend

choices = st.lists(
    st.builds(
        Candidate,
        name=st.just("x"),
        scores=st.integers(0, 5).map(lambda score: (score / 5,)),
        cost=st.integers(1, 5).map(float),
        cost_low=st.just(math.nan),
        cost_high=st.just(math.nan),
        parameters=st.integers(0, 9),
    ),
    min_size=1,
    max_size=8,
)


def beats(first, second):
    """No worse in both, better in one."""
    gain, saving = first.scores[0] - second.scores[0], second.cost - first.cost
    return min(gain, saving) >= 0 and max(gain, saving) > 0


@given(choices)
def test_the_front_holds_exactly_the_unbeaten_choices_by_rising_cost(candidates):
    front = pareto_front(candidates)
    unbeaten = [c for c in candidates if not any(beats(other, c) for other in candidates)]
    assert {id(c) for c in front} == {id(c) for c in unbeaten}
    assert [c.cost for c in front] == sorted(c.cost for c in unbeaten)


def test_the_cheapest_indistinguishable_choice_is_recommended():
    advice = recommend(
        [
            Candidate("head", (0.60, 0.61, 0.59), cost=1),
            Candidate("q,v", (0.79, 0.80, 0.81), cost=2),
            Candidate("all", (0.80, 0.81, 0.82), cost=3),
        ],
        cost="latency",
        format_cost="{:.1f} ms",
    )
    assert advice.name == "q,v"
    assert advice.reason == (
        "q,v scores 0.800 ± 0.025, which 3 seeds cannot tell from the best (all, 0.810 ± 0.025), "
        "and of the 2 such choices it has the lowest latency 2.0 ms."
    )


def test_a_real_difference_outweighs_the_cost():
    advice = recommend(
        [Candidate("q", (0.70, 0.71, 0.70), 1), Candidate("all", (0.80, 0.81, 0.80), 100)]
    )
    assert advice.name == "all"
    assert "larger than chance explains" in advice.reason


def test_of_equal_costs_the_fewest_parameters_win():
    scores = (0.79, 0.80, 0.81)
    advice = recommend(
        [
            Candidate("big", scores, 5.0, cost_low=4.9, cost_high=5.1, parameters=900),
            Candidate("small", scores, 5.05, cost_low=4.95, cost_high=5.15, parameters=100),
            Candidate("slow", scores, 9.0, cost_low=8.9, cost_high=9.1, parameters=1),
        ]
    )
    assert advice.name == "small"
    assert "fewest trainable parameters of the 2" in advice.reason


def test_a_choice_of_one_seed_is_not_taken_for_as_good_as_the_best():
    advice = recommend([Candidate("once", (0.80,), 1), Candidate("thrice", (0.80, 0.81, 0.82), 9)])
    assert advice.name == "thrice"


def test_a_single_seed_is_said_to_prove_nothing():
    advice = recommend([Candidate("q", (0.79,), 1), Candidate("all", (0.80,), 3)])
    assert advice.name == "all"
    assert "single seed" in advice.reason


def test_no_candidate_is_refused():
    with pytest.raises(ValueError, match="no candidate"):
        recommend([])
