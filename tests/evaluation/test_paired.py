"""Paired tests agree with SciPy's and with closed forms; corrections with Holm's steps."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lora_jax.evaluation import accuracy, find_metric
from lora_jax.evaluation.bootstrap import bootstrap_difference, bootstrap_interval
from lora_jax.evaluation.paired import holm, paired_difference, unpaired_difference

FIRST = [0.81, 0.84, 0.80, 0.83, 0.79]
SECOND = [0.78, 0.80, 0.81, 0.78, 0.77]


def test_pairs_are_tested_as_scipy_tests_them():
    found = paired_difference(FIRST, SECOND)
    theirs = stats.ttest_rel(FIRST, SECOND)
    low, high = theirs.confidence_interval()
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.interval == pytest.approx((np.mean(FIRST) - np.mean(SECOND), low, high))
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(FIRST, SECOND).pvalue)
    assert found.pairs == 5


def test_other_seeds_are_tested_by_welch():
    found = unpaired_difference(FIRST, SECOND[:3])
    assert found.p == pytest.approx(stats.ttest_ind(FIRST, SECOND[:3], equal_var=False).pvalue)
    assert found.pairs == 0
    assert math.isnan(found.p_wilcoxon)


def test_what_proves_nothing_has_no_p():
    assert paired_difference(FIRST, FIRST).p == 1.0
    assert math.isnan(paired_difference([0.8], [0.7]).p)
    assert math.isnan(paired_difference([2.0, 3.0], [1.0, 2.0]).p), "both differ by exactly one"
    assert math.isnan(unpaired_difference([0.8], FIRST).p)
    with pytest.raises(ValueError, match="5 scores and 2 do not come in pairs"):
        paired_difference(FIRST, SECOND[:2])


@given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=8))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p_values):
    corrected = holm(p_values)
    made = [(p, c) for p, c in zip(p_values, corrected, strict=True) if not math.isnan(p)]
    assert all(p - 1e-9 <= c <= min(1, p * len(made)) + 1e-9 for p, c in made)
    assert [c for _, c in sorted(made)] == sorted(c for _, c in made)
    assert all(math.isnan(c) == math.isnan(p) for p, c in zip(p_values, corrected, strict=True))


def test_a_difference_by_the_bootstrap_is_that_of_the_values_and_of_their_draws():
    random = np.random.default_rng(0)
    labels = random.integers(2, size=300)
    good = np.where(random.random(300) < 0.9, labels, 1 - labels)
    poor = np.where(random.random(300) < 0.6, labels, 1 - labels)
    interval, p = bootstrap_difference(accuracy, [good], [poor], labels)
    assert interval.mean == pytest.approx(accuracy(good, labels) - accuracy(poor, labels))
    assert 0 < interval.low < interval.mean < interval.high
    assert p == pytest.approx(2 / 1001)
    # Against one that is always wrong, the difference is the accuracy itself.
    against, _ = bootstrap_difference(accuracy, [good], [1 - labels], labels)
    assert against == pytest.approx(bootstrap_interval(accuracy, good, labels))


def test_seeds_of_a_system_count_by_their_mean_and_equal_ones_do_not_differ():
    bleu, references = find_metric("bleu"), [["a b c d e"], ["f g h i j"]]
    right, wrong = ["a b c d e", "f g h i j"], ["x", "y"]
    interval, p = bootstrap_difference(bleu, [right, wrong], [wrong, wrong], references)
    assert interval.mean == pytest.approx(50.0)
    assert bootstrap_difference(bleu, [right], [right], references)[1] == 1.0
    assert p < 1
    with pytest.raises(ValueError, match="not 0, 1 and 1000"):
        bootstrap_difference(bleu, [], [right], references)
