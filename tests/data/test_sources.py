"""Where data is looked for: a directory, LORA_JAX_DATA, what TFDS prepared, the hub; in words."""

import json

import huggingface_hub
import pytest
from huggingface_hub import errors

from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source, read_split

SOURCE = Source(
    "numbers",
    {"train": ("train.jsonl", "data/train-*.jsonl"), "test": ("test.jsonl", "data/test-*.jsonl")},
    "GitHub's org/numbers",
    hub="org/numbers",
)


def write(directory, name, *rows):
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def numbers(*arguments):
    return [fields["n"] for fields, _ in read_split(SOURCE, *arguments)]


@pytest.fixture
def hub(monkeypatch):
    """Answers of the hub: offline -> online; and what was asked."""
    monkeypatch.delenv("LORA_JAX_DATA", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    unreachable = errors.LocalEntryNotFoundError("offline")
    answers, asked = {True: unreachable, False: unreachable}, []

    def snapshot_download(name, **options):
        asked.append((name, options))
        answer = answers[options["local_files_only"]]
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return answers, asked


def test_the_original_files_come_before_those_of_the_hub(tmp_path):
    write(tmp_path, "data/train-0.jsonl", {"n": 2})
    assert numbers("train", tmp_path) == [2]
    write(tmp_path, "train.jsonl", {"n": 1})
    assert numbers("train", tmp_path) == [1]


def test_several_files_are_read_in_the_order_of_their_names(tmp_path):
    for part in (10, 9, 11):
        write(tmp_path, f"data/train-{part:02d}-of-12.jsonl", {"n": part})
    assert numbers("train", tmp_path) == [9, 10, 11]


def test_the_folder_below_lora_jax_data_comes_first_and_a_named_directory_is_the_only_place(
    tmp_path, monkeypatch, hub
):
    write(tmp_path, "numbers/train.jsonl", {"n": 1})
    monkeypatch.setenv("LORA_JAX_DATA", str(tmp_path))
    assert numbers("train") == [1]
    with pytest.raises(FileNotFoundError, match=r"looked in .*elsewhere \(no directory\)\. It"):
        numbers("train", tmp_path / "elsewhere")
    assert not hub[1]


def test_the_hub_is_asked_for_the_files_of_all_splits_and_its_cache_first(tmp_path, hub):
    answers, asked = hub
    write(tmp_path, "data/train-0.jsonl", {"n": 1})
    answers[True] = answers[False] = tmp_path
    assert numbers("train") == [1]
    assert [options["local_files_only"] for _, options in asked] == [True, False]  # test is missing
    assert asked[0][0] == "org/numbers"
    assert asked[0][1]["repo_type"] == "dataset"
    assert set(asked[0][1]["allow_patterns"]) == {p for ps in SOURCE.files.values() for p in ps}
    write(tmp_path, "data/test-0.jsonl", {"n": 7})
    asked.clear()
    assert numbers("test") == [7]
    assert [options["local_files_only"] for _, options in asked] == [True]


@pytest.mark.parametrize("error", [ConnectionError("no"), errors.LocalEntryNotFoundError("no")])
def test_what_is_nowhere_says_where_it_was_looked_for_and_where_it_comes_from(
    error, tmp_path, monkeypatch, hub
):
    hub[0][False] = error
    with pytest.raises(FileNotFoundError) as raised:
        numbers("train")
    assert "hf download --repo-type dataset org/numbers" in str(raised.value)
    monkeypatch.setenv("LORA_JAX_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError) as raised:
        numbers("train")
    said = str(raised.value)
    assert f"no train.jsonl or data/train-*.jsonl: looked in {tmp_path / 'numbers'}" in said
    assert "GitHub's org/numbers" in said
    assert "set LORA_JAX_DATA" in said


def test_without_any_place_the_variable_is_named(hub):
    with pytest.raises(FileNotFoundError, match="LORA_JAX_DATA is not set, so nowhere to look"):
        read_split(SOURCE._replace(hub=""), "train")


def make(fields, place):
    if fields["n"] < 0:
        raise ValueError(f"{fields['n']} is negative")
    return fields["n"]


def test_a_bad_row_is_an_error_that_names_file_and_line(tmp_path):
    write(tmp_path, "train.jsonl", {"n": 1}, {"n": -2})
    with pytest.raises(ValueError, match=r"train.jsonl, line 2: -2 is negative"):
        Reading(SOURCE, tmp_path).records("train", make)


def test_bad_rows_can_be_left_out_and_are_counted(tmp_path):
    write(tmp_path, "train.jsonl", {"n": 1}, {"n": -2}, {"n": 3}, ["n"])
    reading = Reading(SOURCE, tmp_path, "skip")
    assert reading.records("train", make) == (1, 3)
    assert [fault.split(", ", 1)[1][:6] for fault in reading.skipped] == ["line 2", "line 4"]


def test_a_split_without_a_good_row_is_refused(tmp_path):
    write(tmp_path, "train.jsonl", {"n": -2})
    with pytest.raises(ValueError, match="numbers has no record to read for 'train'"):
        Reading(SOURCE, tmp_path, "skip").records("train", make)


def test_an_unknown_way_with_bad_rows_is_refused():
    with pytest.raises(ValueError, match="bad_rows is 'ignore'; known: raise, skip"):
        Reading(SOURCE, bad_rows="ignore")
