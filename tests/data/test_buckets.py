"""Batches of about one length: nothing is lost, all processes agree, and little is padding."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax.data import LazyExamples, bucketed_batches, pad, streamed_batches
from lora_jax.data.buckets import BucketedBatches
from tests.data.test_packing import examples

SIZES = st.lists(st.integers(1, 16), min_size=6, max_size=30)


def rows(sizes):
    """Padded rows whose first tokens tell them apart."""
    return pad(examples(sizes), 16)


def real(batch):
    """The rows of a batch without their padding."""
    return [
        (ids[kept].tolist(), trained[kept].tolist())
        for ids, trained, kept in zip(
            batch["ids"], batch["trained"], batch["segments"] != 0, strict=True
        )
    ]


def take(batches, count):
    return list(itertools.islice(batches, count))


@given(SIZES, st.integers(1, 6), st.integers(0, 3))
def test_every_pass_holds_each_example_at_most_once_whole_and_few_are_left_out(sizes, size, seed):
    stream = bucketed_batches(rows(sizes), [4, 8], size, seed=seed)
    given = real(rows(sizes))
    for _ in range(3):
        found = [row for batch in take(stream, len(sizes) // size) for row in real(batch)]
        assert len(sizes) - size < len(found) == len(set(map(str, found)))
        assert all(row in given for row in found)


@given(SIZES, st.integers(1, 6))
def test_a_batch_is_as_long_as_the_bucket_of_its_longest_row(sizes, size):
    for batch in take(bucketed_batches(rows(sizes), [4, 8], size, seed=0), 2 * len(sizes)):
        longest = (batch["segments"] != 0).sum(axis=1).max()
        assert batch["ids"].shape == (size, min(n for n in (4, 8, 16) if n >= longest))


def test_what_fills_no_batch_goes_up_a_bucket_and_what_fills_no_last_one_is_another_each_time():
    sizes = [2] * 5 + [7] * 4 + [16] * 2
    batches = len(sizes) // 3
    stream = bucketed_batches(rows(sizes), [4, 8], 3, seed=0)
    passes = [take(stream, batches) for _ in range(40)]
    missing = set()
    for number in passes:
        # However the two that are left out are drawn, at most one batch a bucket is mixed.
        assert sum(len({len(r[0]) for r in real(batch)}) > 1 for batch in number) <= 2
        seen = {row[0][0] for batch in number for row in real(batch)}
        missing |= set(rows(sizes)["ids"][:, 0].tolist()) - seen
    assert len(missing) == len(sizes)
    assert len({str([real(batch) for batch in number]) for number in passes}) == len(passes)


def test_it_says_how_much_is_filled():
    stream = bucketed_batches(rows([4, 4, 8, 4, 16, 16]), [4, 8], 2, seed=0)
    assert stream.tokens == 2 * 52 / 6
    said = "batches by the tokens of their rows: 1 of 4, 1 of 8, 1 of 16; 93% filled"
    assert stream.describe() == said


@settings(max_examples=40)
@given(SIZES, st.integers(0, 12), st.integers(1, 5))
def test_a_stream_goes_on_anywhere_and_with_any_number_of_processes(sizes, place, share):
    whole = take(bucketed_batches(rows(sizes), [4, 8], 6, seed=1), place + 4)
    first = bucketed_batches(rows(sizes), [4, 8], 6, seed=1, rows=range(share))
    take(first, place)
    state = json.loads(json.dumps(first.get_state()))  # as a checkpoint would hold it
    parts = [range(share), range(share, 6)]
    streams = [bucketed_batches(rows(sizes), [4, 8], 6, seed=1, rows=part) for part in parts]
    for stream in streams:
        stream.set_state(state)
    for expected in whole[place:]:
        found = [next(stream) for stream in streams]
        for name, values in expected.items():
            np.testing.assert_array_equal(np.concatenate([x[name] for x in found]), values)


def test_arrays_of_a_task_of_labels_are_cut_alike_and_labels_are_not():
    sizes = np.array([2, 3, 6, 5])
    mask = (np.arange(8) < sizes[:, None]).astype(np.int32)
    task = {"ids": mask * np.arange(1, 5)[:, None], "mask": mask, "label": np.arange(1, 5)}
    for batch in take(bucketed_batches(task, [3], 2, seed=0), 6):
        assert batch["ids"].shape == batch["mask"].shape in {(2, 3), (2, 8)}
        assert (batch["ids"] == batch["mask"] * batch["label"][:, None]).all()


class Encoder:
    """Makes an example of a record that is one, and notes that it was read."""

    def __init__(self):
        self.read = []

    def encode(self, records):
        self.read += [int(record["ids"][0]) for record in records]
        return Encoded(list(records))


class Encoded:
    def __init__(self, examples):
        self.examples = examples


@pytest.mark.usefixtures("without_type_checks")
def test_a_stream_reads_what_its_rows_need_and_makes_the_batches_of_what_is_in_memory():
    sizes = [3, 9, 4, 16, 7, 2, 5, 5]
    whole = bucketed_batches(rows(sizes), [4, 8], 4, seed=2)
    encoder = Encoder()
    lazy = LazyExamples(encoder, examples(sizes), range(8), np.array(sizes))
    stream = streamed_batches(lazy, [4, 8, 16], 4, seed=2, rows=[1, 2])
    assert not encoder.read
    for expected in take(whole, 5):
        before = len(encoder.read)
        found = next(stream)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values[1:3])
        assert encoder.read[before:] == expected["ids"][1:3, 0].tolist()


@pytest.mark.usefixtures("without_type_checks")
def test_what_a_survey_left_out_is_no_example():
    encoder = Encoder()
    lazy = LazyExamples(encoder, examples([3, 9, 4]), [0, 1, 2], np.array([3, 0, 4]))
    assert [len(example["ids"]) for example in lazy] == [3, 4] == lazy.sizes.tolist()
    assert [len(example["ids"]) for example in lazy[-1:]] == [4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": [4, 32]}, r"buckets of \[32\] tokens: they have from 1 to 16"),
        ({"lengths": [0]}, r"buckets of \[0\] tokens"),
        ({"batch_size": 7}, "cannot make batches of 7 from 6 examples"),
        ({"batch_size": 0}, "cannot make batches of 0"),
        ({"rows": [4]}, r"of which this process reads the rows \[4\]"),
        ({"rows": []}, "cannot make batches"),
    ],
)
def test_impossible_buckets_are_refused(options, message):
    options = {"lengths": [4], "batch_size": 4, "rows": None, **options}
    with pytest.raises(ValueError, match=message):
        bucketed_batches(rows([3] * 6), seed=0, **options)


def test_an_example_that_fits_no_bucket_is_refused():
    with pytest.raises(ValueError, match="an example has 9 tokens, and the longest bucket 8"):
        BucketedBatches(lambda index, length: {}, np.array([3, 9]), [4, 8], 1, seed=0)
    with pytest.raises(ValueError, match=r"buckets of \[\] tokens: at least one"):
        BucketedBatches(lambda index, length: {}, np.array([3]), [], 1, seed=0)
