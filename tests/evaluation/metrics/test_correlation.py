"""Correlations against their definitions, written out with numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lora_jax.evaluation import pearson, spearman

pairs = st.integers(3, 30).flatmap(
    lambda size: st.tuples(*[arrays(np.int64, size, elements=st.integers(0, 3))] * 2)
)


def mean_ranks(series):
    """The mean of the places that a value takes among the sorted ones, counted from one."""
    return np.array([np.sum(series < x) + (np.sum(series == x) + 1) / 2 for x in series])


@given(pairs)
def test_correlations_are_covariances_over_deviations_of_values_and_of_ranks(pair):
    predicted, labels = pair
    if len(set(predicted)) == 1 or len(set(labels)) == 1:
        assert np.isnan(pearson(predicted, labels))
        assert np.isnan(spearman(predicted, labels))
        return
    assert pearson(predicted, labels) == pytest.approx(
        np.corrcoef(predicted, labels)[0, 1], abs=1e-12
    )
    assert spearman(predicted, labels) == pytest.approx(
        np.corrcoef(mean_ranks(predicted), mean_ranks(labels))[0, 1], abs=1e-12
    )


def test_pearson_ignores_scale_and_offset_of_half_precision_scores():
    scores = np.linspace(0, 1, 50).astype(np.float16)
    assert pearson(scores, 3 - 2 * scores.astype(np.float64)) == pytest.approx(-1)


def test_a_single_sample_has_no_correlation():
    assert np.isnan(pearson(np.array([1.0]), np.array([2.0])))
