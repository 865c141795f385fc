"""Pareto fronts against their definition, and recommendations that heed the interval."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_jax.analysis import Candidate, pareto_front, recommend, recommend_within

choices = st.lists(
    st.builds(
        Candidate,
        name=st.just("x"),
        scores=st.integers(0, 5).map(lambda score: (score / 5,)),
        costs=st.integers(1, 5).map(lambda cost: (float(cost),)),
        parameters=st.integers(0, 9),
    ),
    min_size=1,
    max_size=8,
)


def beats(first, second):
    """No worse in both, better in one."""
    gain, saving = first.scores[0] - second.scores[0], second.costs[0] - first.costs[0]
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
            Candidate("head", (0.60, 0.61, 0.59), (1.0,)),
            Candidate("q,v", (0.79, 0.80, 0.81), (2.0,)),
            Candidate("all", (0.80, 0.81, 0.82), (3.0,)),
        ],
        cost="latency",
        format_cost="{:.1f} ms",
    )
    assert advice.name == "q,v"
    assert advice.reason == (
        "q,v scores 0.800 ± 0.025, which 3 seeds cannot tell from the best (all, 0.810 ± 0.025), "
        "and of 2 such choices it has the lowest latency 2.0 ms."
    )


def test_a_real_difference_outweighs_the_cost():
    advice = recommend(
        [Candidate("q", (0.70, 0.71, 0.70), (1.0,)), Candidate("all", (0.80, 0.81, 0.80), (9.0,))]
    )
    assert advice.name == "all"
    assert "larger than chance explains" in advice.reason


def test_a_choice_without_others_is_not_said_to_differ_from_them():
    advice = recommend([Candidate("q", (0.70, 0.71, 0.70), (1.0,))], cost="latency")
    assert advice.reason == "q is the only choice; it scores 0.703 ± 0.014 (latency 1)."


DRIFT = np.linspace(1, 10, 30)
SCORES = (0.79, 0.80, 0.81)


def test_of_equal_costs_the_fewest_parameters_win():
    noise = 1 + 0.01 * np.random.default_rng(0).standard_normal((2, 30))
    advice = recommend(
        [
            Candidate("big", SCORES, tuple(DRIFT * noise[0]), parameters=900),
            Candidate("small", SCORES, tuple(DRIFT * noise[1]), parameters=100),
            Candidate("slow", SCORES, tuple(1.05 * DRIFT), parameters=1),
        ]
    )
    assert advice.name == "small"
    assert "the fewest parameters of the 2 that cost the least" in advice.reason


def test_costs_that_differ_in_every_measurement_are_told_apart_whatever_the_drift():
    cheap = Candidate("cheap", SCORES, tuple(DRIFT), parameters=900)
    dear = Candidate("dear", SCORES, tuple(1.02 * DRIFT), parameters=100)
    assert cheap.cost_interval[1] > dear.cost_interval[0], "one by one their intervals overlap"
    assert recommend([cheap, dear]).name == "cheap"


def test_costs_that_were_not_measured_together_are_refused():
    choices = [Candidate("a", SCORES, (1.0, 2.0)), Candidate("b", SCORES, (1.0,))]
    with pytest.raises(ValueError, match="only costs measured together"):
        recommend(choices)


def test_a_choice_of_one_seed_is_not_taken_for_as_good_as_the_best():
    advice = recommend(
        [Candidate("once", (0.80,), (1.0,)), Candidate("thrice", (0.80, 0.81, 0.82), (9.0,))]
    )
    assert advice.name == "thrice"


def test_a_single_seed_is_said_to_prove_nothing():
    advice = recommend([Candidate("q", (0.79,), (1.0,)), Candidate("all", (0.80,), (3.0,))])
    assert advice.name == "all"
    assert "single seed" in advice.reason


def test_no_candidate_is_refused():
    with pytest.raises(ValueError, match="no candidate"):
        recommend([])


def test_within_a_budget_only_what_it_allows_is_compared():
    choices = [
        Candidate("small", (0.70, 0.71, 0.70), (1.0,)),
        Candidate("large", (0.80, 0.81, 0.80), (9.0,)),
    ]
    assert [recommend_within(choices, limit).name for limit in (1, 8.9, 9)] == [
        *("small", "small", "large")
    ]
    assert recommend_within(choices, 0.5) is None
