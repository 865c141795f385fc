"""The loader: every example once a pass, the same stream each time, and resumable anywhere."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax.data import evaluation_batches, training_batches


def examples(count):
    return {"ids": np.arange(2 * count).reshape(count, 2), "label": np.arange(count)}


def rows(batches, count):
    return [batch["label"].tolist() for batch in itertools.islice(batches, count)]


def test_every_pass_holds_each_example_once():
    batches = training_batches(examples(10), 4, seed=0)
    stream = list(itertools.chain(*rows(batches, 15)))
    for start in range(0, 60, 10):
        assert sorted(stream[start : start + 10]) == list(range(10))


def test_passes_have_different_orders_and_so_have_seeds():
    first = list(itertools.chain(*rows(training_batches(examples(12), 4, seed=0), 6)))
    other = list(itertools.chain(*rows(training_batches(examples(12), 4, seed=1), 3)))
    assert len({tuple(first[:12]), tuple(first[12:]), tuple(other)}) == 3


def test_the_arrays_of_a_row_stay_together():
    for batch in itertools.islice(training_batches(examples(9), 4, seed=3), 5):
        assert (batch["ids"][:, 0] == 2 * batch["label"]).all()
        assert batch["ids"].shape == (4, 2)


@settings(max_examples=20)  # Grain takes a second for a few
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 12), st.integers(0, 3))
def test_a_resumed_stream_goes_on_as_if_never_stopped(count, batch_size, place, seed):
    whole = rows(training_batches(examples(count), batch_size, seed=seed), place + 3)
    first = training_batches(examples(count), batch_size, seed=seed)
    assert rows(first, place) == whole[:place]
    state = json.loads(json.dumps(first.get_state()))  # as a checkpoint would hold it
    resumed = training_batches(examples(count), batch_size, seed=seed)
    resumed.set_state(state)
    assert rows(resumed, 3) == whole[place:]


@settings(max_examples=20)
@given(st.integers(1, 9), st.sampled_from([1, 2, 3, 6]), st.integers(0, 3))
def test_processes_read_the_same_batches_however_many_they_are(count, processes, seed):
    whole = rows(training_batches(examples(count), 6, seed=seed), 4)
    each = 6 // processes
    parts = [
        rows(
            training_batches(examples(count), 6, seed=seed, rows=range(p * each, (p + 1) * each)), 4
        )
        for p in range(processes)
    ]
    assert [list(itertools.chain(*batch)) for batch in zip(*parts, strict=True)] == whole


def test_a_stream_goes_on_with_another_number_of_processes():
    whole = rows(training_batches(examples(7), 4, seed=1), 5)
    first = training_batches(examples(7), 4, seed=1, rows=[2, 3])
    rows(first, 3)
    resumed = training_batches(examples(7), 4, seed=1)
    resumed.set_state(first.get_state())
    assert rows(resumed, 2) == whole[3:]


@pytest.mark.parametrize(
    ("batch_size", "some"), [(0, None), (4, [4]), (4, [-1]), (4, []), (-2, None)]
)
def test_impossible_batches_are_refused(batch_size, some):
    with pytest.raises(ValueError, match="cannot make batches"):
        training_batches(examples(8), batch_size, seed=0, rows=some)


def test_a_stream_of_no_examples_is_refused():
    with pytest.raises(ValueError, match="from 0 examples"):
        training_batches(examples(0), 4, seed=0)


@given(st.integers(1, 9), st.integers(1, 5))
def test_evaluation_goes_once_through_all_in_batches_of_one_shape(count, batch_size):
    seen = []
    for batch, real in evaluation_batches(examples(count), batch_size):
        assert batch["ids"].shape == (batch_size, 2)
        seen += batch["label"][:real].tolist()
    assert seen == list(range(count))


def test_evaluation_batches_have_rows():
    with pytest.raises(ValueError, match="batches of 0 rows"):
        next(evaluation_batches(examples(3), 0))
