"""Text tasks as data sets of TFDS: written once, read back as they were, record by record."""

import itertools
import json
import shutil

import grain
import pytest
from data.tasks.built import BUILT, put_all

from lora_jax.data import load_text_task
from lora_jax.data.lazy_records import LazyRecords
from lora_jax.data.prepare import find_prepared_task, prepare, read_prepared_task
from lora_jax.data.text_task import ask


def plain(record):
    """A record with its pictures read, and tuples in its fields as JSON has them."""
    images = tuple(i if isinstance(i, bytes) else i.read_bytes() for i in record.images)
    return record._replace(images=images)


@pytest.mark.parametrize("name", ["dart", "flickr8k", "toolace", "samsum"])
def test_what_is_prepared_is_read_back_as_it_was(name, tmp_path):
    put_all(tmp_path / "files", BUILT[name][0])
    task = load_text_task(name, {"directory": tmp_path / "files"})
    again = read_prepared_task(prepare(task, tmp_path / "tfds"))
    for split in ("train", "validation", "test"):
        wanted, found = getattr(task, split), getattr(again, split)
        assert [plain(record) for record in found] == [plain(record) for record in wanted]
    same = ("name", "about", "metrics", "max_new_tokens", "skipped")
    assert [getattr(again, f) for f in same] == [getattr(task, f) for f in same]


def test_a_task_is_prepared_once_for_the_same_options(tmp_path):
    options = {"train": 3, "test": 2, "noise": 0.0}
    cached = load_text_task("invoices", options, cache=tmp_path)
    place = find_prepared_task("invoices", tmp_path, options)
    before = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    again = load_text_task("invoices", dict(reversed(options.items())), cache=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == before
    drawn = load_text_task("invoices", options)
    assert cached.train[:] == again.train[:] == drawn.train[:]
    assert find_prepared_task("invoices", tmp_path, {**options, "seed": 1}) is None


def write_numbers(path, count):
    rows = [{"q": f"{i} + 1", "a": str(i + 1)} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_changed_or_further_file_is_noticed_and_one_that_is_gone_is_not_missed(tmp_path):
    files, cache = tmp_path / "files", tmp_path / "cache"
    files.mkdir()
    options = {"train": f"{files}/train*.jsonl", "test": f"{files}/test.jsonl"}
    options |= {"prompt": "{q}", "answer": "{a}"}

    def count():
        task = load_text_task("sft", options, cache=cache)
        return len(task.train), len(task.test)

    write_numbers(files / "train1.jsonl", 3)
    write_numbers(files / "test.jsonl", 2)
    assert count() == (3, 2)
    note = find_prepared_task("sft", cache, options) / "source_files.json"
    written = note.stat().st_mtime_ns
    assert count() == (3, 2)
    assert note.stat().st_mtime_ns == written, "nothing changed, so nothing was prepared again"
    write_numbers(files / "test.jsonl", 4)
    assert count() == (3, 4)
    write_numbers(files / "train2.jsonl", 5)
    assert count() == (8, 4)
    shutil.rmtree(files)
    assert count() == (8, 4)


def test_a_changed_picture_is_noticed(tmp_path):
    put_all(tmp_path / "files", BUILT["flickr8k"][0])
    options = {"directory": str(tmp_path / "files")}
    before = load_text_task("flickr8k", options, cache=tmp_path / "cache").train[0].images[0]
    picture = load_text_task("flickr8k", options).train[0].images[0]
    picture.write_bytes(before + b"longer")
    after = load_text_task("flickr8k", options, cache=tmp_path / "cache").train[0].images[0]
    assert after == before + b"longer"


def test_grain_reads_each_record_once_shuffled_sharded_and_resumed(tmp_path):
    options = {"train": 7, "test": 1, "noise": 0.0}
    train = load_text_task("invoices", options, cache=tmp_path).train

    def shard(index):
        rows = grain.MapDataset.source(train)[index::2].seed(3).shuffle()
        return iter(rows.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))

    seen = []
    for index in range(2):
        first = shard(index)
        seen += [record.answer for record in itertools.islice(first, 2)]
        resumed = shard(index)
        resumed.set_state(first.get_state())
        seen += [record.answer for record in resumed]
    assert sorted(seen) == sorted(record.answer for record in train)


def test_records_are_made_when_they_are_asked_for():
    made = []

    def make(row):
        made.append(row)
        return ask(f"{row}?", f"{row}")

    records = LazyRecords(5, make)
    assert (len(records), made) == (5, [])
    assert records[-1].answer == "4"
    assert [record.answer for record in records[1:3]] == ["1", "2"]
    assert made == [4, 1, 2]
    with pytest.raises(IndexError, match="record 5 of 5"):
        records[5]
