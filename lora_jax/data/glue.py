"""The tasks of GLUE, read from their tsv files.

The files have no quoting: a quotation mark is a character like any other, and a field ends at a
tab. CoLA has no header; MRPC's dev file begins with a byte-order mark; the labels of the test files
are not public, so the dev file is the test set here.

Source: Wang et al. 2019, "GLUE: a multi-task benchmark and analysis platform for natural language
understanding", table 1 for the metrics.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lora_jax.data.task import Record, Task


class Format(NamedTuple):
    """How the files of one task are laid out.

    Attributes:
      folder: its name below the directory of GLUE.
      header: the names of the columns; the first line must bear them, unless `has_header` is False.
      text: column of the text.
      label: column of the label.
      metric: key of `evaluation.METRICS`.
      labels: the words that stand for the classes, in their order; none for a score.
      pair: column of the second text.
      highest: the highest score, where there are no classes; the lowest is 0.
      has_header: whether the first line names the columns.
    """

    folder: str
    header: tuple[str, ...]
    text: str
    label: str
    metric: str
    labels: tuple[str, ...] = ()
    pair: str | None = None
    highest: float = 0.0
    has_header: bool = True


STSB_COLUMNS = (
    *("index", "genre", "filename", "year", "old_index", "source1", "source2"),
    *("sentence1", "sentence2", "score"),
)

TASKS: Mapping[str, Format] = {
    "cola": Format(
        "CoLA",
        ("source", "label", "star", "sentence"),
        *("sentence", "label", "matthews"),
        labels=("0", "1"),
        has_header=False,
    ),
    "mrpc": Format(
        "MRPC",
        ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
        *("#1 String", "Quality", "f1"),
        labels=("0", "1"),
        pair="#2 String",
    ),
    "rte": Format(
        "RTE",
        ("index", "sentence1", "sentence2", "label"),
        *("sentence1", "label", "accuracy"),
        labels=("entailment", "not_entailment"),
        pair="sentence2",
    ),
    "sst2": Format(
        "SST-2",
        ("sentence", "label"),
        *("sentence", "label", "accuracy"),
        labels=("0", "1"),
    ),
    "stsb": Format(
        "STS-B",
        STSB_COLUMNS,
        *("sentence1", "score", "spearman"),
        pair="sentence2",
        highest=5.0,
    ),
}

CLASS_NAMES: Mapping[str, tuple[str, ...]] = {
    "cola": ("unacceptable", "acceptable"),
    "mrpc": ("different", "equivalent"),
    "sst2": ("negative", "positive"),
}


def glue(name: str, directory: str | Path | None = None) -> Task:
    """Reads a task of GLUE.

    Args:
      name: "cola", "mrpc", "rte", "sst2" or "stsb". The scores of "stsb" lie in [0, 5].
      directory: holds `CoLA`, `MRPC`, ...; by default `glue` below the environment variable
        `LORA_JAX_DATA`.

    Returns:
      The task, its test set the public dev file.

    Raises:
      FileNotFoundError: the directory or a file is not there.
      ValueError: an unknown name, or a line that is not as it should be; its number is named.
    """
    if name not in TASKS:
        nearest = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.0)[0]
        raise ValueError(f"no GLUE task {name!r}; nearest: {nearest!r}; known: {', '.join(TASKS)}")
    layout = TASKS[name]
    folder = _directory(directory) / layout.folder
    train, test = (tuple(read_records(folder / f"{part}.tsv", layout)) for part in ("train", "dev"))
    about = f"GLUE's {layout.folder}: its training file, and its dev file as the test set."
    classes = CLASS_NAMES.get(name, layout.labels)
    return Task(name, about, classes, train, test, layout.metric)


def read_records(path: str | Path, layout: Format) -> Iterator[Record]:
    """Reads one file.

    Args:
      path: the file.
      layout: how it is laid out.

    Yields:
      Its records, in order.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: it is not UTF-8, has no record, or has a line that is not as it should be.
    """
    lines = _lines(Path(path))
    start = 0
    if layout.has_header:
        if not lines or tuple(lines[0].split("\t")) != layout.header:
            found = repr(lines[0][:80]) if lines else "an empty file"
            raise ValueError(f"{path}, line 1: expected the columns {layout.header}, found {found}")
        start = 1
    if len(lines) == start:
        raise ValueError(f"{path} has no record")
    for number, line in enumerate(lines[start:], start + 1):
        try:
            yield _record(line.split("\t"), layout)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error


def _record(fields: Sequence[str], layout: Format) -> Record:
    if len(fields) != len(layout.header):
        raise ValueError(
            f"expected {len(layout.header)} fields between tabs, found {len(fields)}: "
            f"is the file cut short?"
        )
    row = dict(zip(layout.header, fields, strict=True))
    pair = None if layout.pair is None else row[layout.pair]
    return Record(row[layout.text], _label(row[layout.label], layout), pair)


def _label(word: str, layout: Format) -> float:
    if layout.labels:
        if word not in layout.labels:
            raise ValueError(f"label {word!r} is none of {', '.join(layout.labels)}")
        return layout.labels.index(word)
    try:
        score = float(word)
    except ValueError:
        raise ValueError(f"score {word!r} is not a number") from None
    if not 0 <= score <= layout.highest:
        raise ValueError(f"score {word} is not between 0 and {layout.highest:g}")
    return score


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: a GLUE task is two files, train.tsv, dev.tsv")
    try:
        text = path.read_text("utf-8-sig")  # takes the byte-order mark away
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    # Not splitlines(), which also splits at characters that occur inside sentences.
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _directory(directory: str | Path | None) -> Path:
    if directory is None:
        data = os.environ.get("LORA_JAX_DATA")
        if not data:
            raise FileNotFoundError(
                "GLUE is read from files: set the environment variable LORA_JAX_DATA to a "
                "directory that holds glue/, or name the directory of GLUE"
            )
        directory = Path(data) / "glue"
    if not Path(directory).is_dir():
        raise FileNotFoundError(f"there is no directory {directory} to read GLUE from")
    return Path(directory)
