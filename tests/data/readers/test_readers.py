"""Readers: each format gives its rows and their places, and says where a file is wrong."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from lora_jax.data.readers import (
    read_csv,
    read_json,
    read_json_rows,
    read_rows,
    read_text,
    read_tsv,
    text,
)


def write(path, content, encoding="utf-8"):
    path.write_bytes(content.encode(encoding))
    return path


ROWS = [{"a": "one", "b": 'two, "2"'}, {"a": "three", "b": "fo\nur"}]


def write_all(directory):
    write(directory / "x.csv", 'a,b\r\none,"two, ""2"""\r\nthree,"fo\nur"\r\n')
    write(directory / "x.jsonl", "\n".join(map(json.dumps, ROWS)) + "\n\n")
    write(directory / "lines.json", "\n".join(map(json.dumps, ROWS)))
    write(directory / "array.json", json.dumps(ROWS, indent=1))
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), directory / "x.parquet")
    return sorted(directory.iterdir())


def test_every_format_gives_the_same_rows(tmp_path):
    for path in write_all(tmp_path):
        assert [fields for fields, _ in read_rows(path)] == ROWS, path.name


def test_places_name_the_file_and_the_line(tmp_path):
    write_all(tmp_path)
    places = {
        path.name: [place.removeprefix(str(path)) for _, place in read_rows(path)]
        for path in tmp_path.iterdir()
    }
    assert places == {
        "x.csv": [", line 2", ", line 4"],  # the second row has two lines
        "x.jsonl": [", line 1", ", line 2"],
        "lines.json": [", line 1", ", line 2"],
        "array.json": [", entry 1", ", entry 2"],
        "x.parquet": [", row 1", ", row 2"],
    }


def test_a_table_between_tabs_has_no_quoting_and_lines_end_at_line_feeds_alone(tmp_path):
    path = write(tmp_path / "x.tsv", '\ufeffa\tb\r\n"never closed \u2028 one line\t\r\nx\ty\r\n')
    assert [fields for fields, _ in read_tsv(path)] == [
        {"a": '"never closed \u2028 one line', "b": ""},
        {"a": "x", "b": "y"},
    ]


def test_columns_can_be_named_for_a_table_that_does_not_name_them(tmp_path):
    path = write(tmp_path / "x.tsv", "1\t2\n")
    assert list(read_tsv(path, ("a", "b"), named=False)) == [
        ({"a": "1", "b": "2"}, f"{path}, line 1")
    ]
    with pytest.raises(ValueError, match="names no columns"):
        list(read_tsv(path, named=False))


def test_other_columns_are_refused(tmp_path):
    path = write(tmp_path / "x.csv", "a,c\n1,2\n")
    with pytest.raises(ValueError, match=r"x.csv, line 1: expected the columns \('a', 'b'\)"):
        list(read_csv(path, ("a", "b")))
    with pytest.raises(ValueError, match="line 1: expected names of columns, found an empty file"):
        list(read_csv(write(tmp_path / "empty.csv", "")))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.tsv", "a\tb\n1\t2\n3\n", "expected 2 fields, found 1"),
        ("x.csv", "a,b\n1,2\n3\n", "expected 2 fields, found 1"),
        ("x.jsonl", '{"a": 1}\n{"a": 1, \n', "no JSON: .* at character"),
        ("x.jsonl", '{"a": 1}\n["a"]\n', "expected a JSON object, found"),
        ("x.json", '[{"a": 1}, 7]', "expected a JSON object, found '7'"),
    ],
)
def test_a_bad_row_is_handed_on_as_an_error_and_does_not_end_the_file(
    name, content, message, tmp_path
):
    good, (bad, _) = read_rows(write(tmp_path / name, content))
    assert isinstance(good[0], dict)
    with pytest.raises(ValueError, match=message):
        raise bad


def test_a_file_that_is_wrong_as_a_whole_is_named_with_its_line(tmp_path):
    with pytest.raises(ValueError, match=r"latin.csv, line 2: not UTF-8 text \(byte 0xe9\)"):
        read_text(write(tmp_path / "latin.csv", "a\ncafé\n", encoding="latin-1"))
    with pytest.raises(ValueError, match=r"x.json, line 2: no JSON"):
        read_json(write(tmp_path / "x.json", '{"a":\n}'))
    with pytest.raises(ValueError, match=r"array.json, line 1: no JSON"):
        list(read_json_rows(write(tmp_path / "array.json", "[1,")))
    with pytest.raises(ValueError, match=r"x.csv, line 3: unexpected end of data"):
        list(read_csv(write(tmp_path / "x.csv", 'a,b\n1,2\n"3,4')))
    with pytest.raises(ValueError, match=r"x.parquet is no Parquet, or damaged"):
        list(read_rows(write(tmp_path / "x.parquet", "PAR1 and no more")))


@pytest.mark.parametrize("name", ["x.csv", "x.json", "x.jsonl", "x.parquet", "x.tsv"])
def test_a_missing_file_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"there is no .*{name}"):
        list(read_rows(tmp_path / name))


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown form '.xlsx'; known: .csv, .json"):
        read_rows(tmp_path / "x.xlsx")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"b": "x", "c": "y"}, "no field 'a'; found: b, c"),
        ({"a": "  "}, "field 'a' is empty"),
        ({"a": None}, "field 'a' is empty"),
        ({"a": 3}, "field 'a' is 3, which is no text"),
    ],
)
def test_a_field_without_text_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        text(fields, "a")


def test_a_field_may_be_allowed_to_be_empty():
    assert text({"a": None}, "a", empty=True) == text({"a": ""}, "a", empty=True) == ""
