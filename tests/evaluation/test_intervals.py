"""Intervals against scipy's own, and against how often they hold the truth."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from lora_jax.evaluation import difference_interval, mean_interval

samples = st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda s: np.std(s) > 1e-6)


@given(samples, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_mean_interval_is_student_s(values, confidence):
    interval = mean_interval(values, confidence)
    low, high = scipy.stats.t.interval(
        confidence, len(values) - 1, np.mean(values), scipy.stats.sem(values)
    )
    assert interval == pytest.approx((np.mean(values), low, high))


@given(samples, samples)
def test_difference_interval_is_welch_s(first, second):
    interval = difference_interval(first, second)
    expected = scipy.stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_mean_interval_of_three_seeds_is_the_textbook_value():
    # s = 0.01, t(0.975, 2) = 4.3027, so the half width is 4.3027 · 0.01 / √3.
    interval = mean_interval([0.79, 0.80, 0.81])
    assert interval.half_width == pytest.approx(0.0248414, abs=1e-6)


def test_a_single_value_has_a_mean_and_no_interval():
    interval = mean_interval([0.8])
    assert interval.mean == 0.8
    assert math.isnan(interval.low)
    assert math.isnan(interval.half_width)
    assert math.isnan(difference_interval([0.8], [0.7, 0.6]).low)


def test_equal_values_give_an_interval_of_no_width():
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)
    assert difference_interval([0.5, 0.5], [0.25, 0.25]) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(("values", "confidence"), [([], 0.95), ([0.1, 0.2], 1.0), ([0.1], 95)])
def test_impossible_requests_are_refused(values, confidence):
    with pytest.raises(ValueError, match=r"at least one value|must lie in \(0, 1\)"):
        mean_interval(values, confidence)
