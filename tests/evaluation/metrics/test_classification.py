"""Metrics of a class against values counted one by one and worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lora_jax.evaluation import accuracy, f1, f1_macro, f1_weighted, matthews

pairs = st.integers(3, 30).flatmap(
    lambda size: st.tuples(*[arrays(np.int64, size, elements=st.integers(0, 3))] * 2)
)


def confusion(predicted, labels):
    """The four counts of a binary task, counted one by one."""
    cells = list(zip(predicted.tolist(), labels.tolist(), strict=True))
    return [cells.count(cell) for cell in [(1, 1), (1, 0), (0, 1), (0, 0)]]


@given(pairs)
def test_accuracy_counts_the_hits(pair):
    predicted, labels = pair
    hits = sum(p == y for p, y in zip(predicted, labels, strict=True))
    assert accuracy(predicted, labels) == pytest.approx(hits / len(labels))


@given(pairs)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(pair):
    predicted, labels = (series % 2 for series in pair)
    hit, false_alarm, miss, _ = confusion(predicted, labels)
    if hit == 0:
        assert f1(predicted, labels) == 0
        return
    precision, recall = hit / (hit + false_alarm), hit / (hit + miss)
    assert f1(predicted, labels) == pytest.approx(2 / (1 / precision + 1 / recall))


@given(pairs)
def test_macro_and_weighted_f1_average_those_of_the_classes(pair):
    predicted, labels = pair
    classes = np.union1d(predicted, labels)
    each = np.array([f1(predicted, labels, positive=int(label)) for label in classes])
    times = np.array([np.sum(labels == label) for label in classes])
    assert f1_macro(predicted, labels) == pytest.approx(each.mean())
    assert f1_weighted(predicted, labels) == pytest.approx(each @ times / len(labels))


@given(pairs)
def test_matthews_is_the_closed_form_of_two_classes(pair):
    predicted, labels = (series % 2 for series in pair)
    tp, fp, fn, tn = confusion(predicted, labels)
    scale = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    expected = (tp * tn - fp * fn) / scale if scale else 0.0
    assert matthews(predicted, labels) == pytest.approx(expected, abs=1e-12)


def test_matthews_of_three_classes_is_the_value_worked_out_by_hand():
    # 6 samples, 4 right, predicted 3/2/1 and labelled 2/2/2 times:
    # (4·6 - (3·2 + 2·2 + 1·2)) / sqrt((36 - 14) (36 - 12))
    labels = np.array([0, 0, 1, 1, 2, 2])
    predicted = np.array([0, 0, 0, 1, 1, 2])
    assert matthews(predicted, labels) == pytest.approx(12 / (22 * 24) ** 0.5)
