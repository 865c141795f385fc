"""The loader: every example once a pass, the same stream each time, and resumable anywhere."""

import collections
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
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


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 12), st.integers(0, 3))
def test_a_resumed_stream_goes_on_as_if_never_stopped(count, batch_size, place, seed):
    whole = rows(training_batches(examples(count), batch_size, seed=seed), place + 3)
    first = training_batches(examples(count), batch_size, seed=seed)
    assert rows(first, place) == whole[:place]
    state = json.loads(json.dumps(first.get_state()))  # as a checkpoint would hold it
    resumed = training_batches(examples(count), batch_size, seed=seed)
    resumed.set_state(state)
    assert rows(resumed, 3) == whole[place:]


def test_processes_share_the_examples_out_among_them():
    shards = [training_batches(examples(7), 1, seed=0, shard=(i, 3)) for i in range(3)]
    sizes = (3, 2, 2)
    seen = [set(itertools.chain(*rows(s, n))) for s, n in zip(shards, sizes, strict=True)]
    assert collections.Counter(itertools.chain(*seen)) == dict.fromkeys(range(7), 1)


@pytest.mark.parametrize("arguments", [(0, (0, 1)), (4, (1, 1)), (4, (-1, 2)), (4, (0, 9))])
def test_impossible_batches_are_refused(arguments):
    batch_size, shard = arguments
    with pytest.raises(ValueError, match="cannot make batches"):
        training_batches(examples(8), batch_size, seed=0, shard=shard)


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
