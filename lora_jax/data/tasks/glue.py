"""The tasks of GLUE, read from their tsv files.

The files have no quoting: a quotation mark is a character like any other, and a field ends at a
tab. CoLA has no header; MRPC's dev file begins with a byte-order mark; the labels of the test files
are not public, so the dev file is the test set here. MNLI has two dev files: texts of the genres
that were trained on, and texts of others.

Source: Wang et al. 2019, "GLUE: a multi-task benchmark and analysis platform for natural language
understanding", table 1 for the metrics.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lora_jax.data.names import known
from lora_jax.data.readers import Fields, Row, read_rows, read_tsv, text
from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source
from lora_jax.data.task import Record, Task


class Format(NamedTuple):
    """How the files of one task are laid out.

    Attributes:
      folder: its name below the directory of GLUE.
      text: column of the text.
      label: column of the label.
      metric: key of `evaluation.METRICS`.
      labels: the words that stand for the classes, in their order; none for a score.
      pair: column of the second text.
      highest: the highest score, where there are no classes; the lowest is 0.
      header: the names of the columns of a file that does not name them.
      dev: the dev file's name, without its ending.
      hub: config on the hub and in TFDS, where columns have plain names and classes are numbers.
      hub_text: columns of the text and of the second text there.
      hub_labels: the words that TFDS writes for the classes, if others than `labels`.
    """

    folder: str
    text: str
    label: str
    metric: str
    labels: tuple[str, ...]
    hub: str
    hub_text: tuple[str, ...]
    pair: str | None = None
    highest: float = 0.0
    header: tuple[str, ...] = ()
    dev: str = "dev"
    hub_labels: tuple[str, ...] = ()


BINARY = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")
PAIR = ("sentence1", "sentence2")
MNLI = Format(
    "MNLI",
    *("sentence1", "gold_label", "accuracy"),
    labels=("entailment", "neutral", "contradiction"),
    pair="sentence2",
    dev="dev_matched",
    hub="mnli",
    hub_text=("premise", "hypothesis"),
)

TASKS: Mapping[str, Format] = {
    "cola": Format(
        "CoLA",
        *("sentence", "label", "matthews"),
        labels=BINARY,
        header=("source", "label", "star", "sentence"),
        hub="cola",
        hub_text=("sentence",),
        hub_labels=("unacceptable", "acceptable"),
    ),
    "mnli": MNLI,
    "mnli_mismatched": MNLI._replace(dev="dev_mismatched"),
    "mrpc": Format(
        "MRPC",
        *("#1 String", "Quality", "f1"),
        labels=BINARY,
        pair="#2 String",
        hub="mrpc",
        hub_text=PAIR,
        hub_labels=("not_equivalent", "equivalent"),
    ),
    "qnli": Format(
        "QNLI",
        *("question", "label", "accuracy"),
        labels=ENTAILMENT,
        pair="sentence",
        hub="qnli",
        hub_text=("question", "sentence"),
    ),
    "qqp": Format(
        "QQP",
        *("question1", "is_duplicate", "accuracy"),
        labels=BINARY,
        pair="question2",
        hub="qqp",
        hub_text=("question1", "question2"),
        hub_labels=("not_duplicate", "duplicate"),
    ),
    "rte": Format(
        "RTE",
        *("sentence1", "label", "accuracy"),
        labels=ENTAILMENT,
        pair="sentence2",
        hub="rte",
        hub_text=PAIR,
    ),
    "sst2": Format(
        "SST-2",
        *("sentence", "label", "accuracy"),
        labels=BINARY,
        hub="sst2",
        hub_text=("sentence",),
        hub_labels=("negative", "positive"),
    ),
    "stsb": Format(
        "STS-B",
        *("sentence1", "score", "spearman"),
        labels=(),
        pair="sentence2",
        highest=5.0,
        hub="stsb",
        hub_text=PAIR,
    ),
}

CLASS_NAMES: Mapping[str, tuple[str, ...]] = {
    "cola": ("unacceptable", "acceptable"),
    "mrpc": ("different", "equivalent"),
    "qqp": ("different", "duplicate"),
    "sst2": ("negative", "positive"),
}


# Of tasks that GLUE scores twice, the other metric.
OTHER_METRICS: Mapping[str, str] = {"mrpc": "accuracy", "qqp": "f1", "stsb": "pearson"}


def glue(
    name: str,
    directory: str | Path | None = None,
    *,
    metric: str | None = None,
    bad_rows: str | None = None,
) -> Task:
    """Reads a task of GLUE.

    Args:
      name: "cola", "mnli", "mnli_mismatched", "mrpc", "qnli", "qqp", "rte", "sst2" or "stsb". The
        scores of "stsb" lie in [0, 5].
      directory: holds `CoLA`, `MRPC`, ...; by default `glue` below the environment variable
        `LORA_JAX_DATA`, or else what TFDS prepared, or the hub's copy.
      metric: of "mrpc" also "accuracy", of "qqp" also "f1", of "stsb" also "pearson"; by default
        the one that `TASKS` names.
      bad_rows: "raise" or "skip"; by default "skip" for "qqp", whose training file has a few lines
        cut short, and "raise" for the others.

    Returns:
      The task, its test set the public dev file.

    Raises:
      FileNotFoundError: the directory or a file is not there.
      ValueError: an unknown name or metric, or a line that is not as it should be; its number is
        named.
    """
    layout = TASKS[known(name, TASKS, "GLUE task")]
    if metric is not None:
        choices = (layout.metric, OTHER_METRICS.get(name, layout.metric))
        layout = layout._replace(metric=known(metric, choices, f"metric of {name}"))
    bad_rows = bad_rows or ("skip" if name == "qqp" else "raise")
    reading = Reading(source(layout), directory, bad_rows, functools.partial(_read, layout))
    train, test = (
        reading.records(split, lambda fields, _: _record(fields, layout))
        for split in ("train", "test")
    )
    about = f"GLUE's {layout.folder}: its training file, and its {layout.dev} file as the test set."
    if reading.skipped:
        about += f" {len(reading.skipped)} malformed lines are left out."
    classes = CLASS_NAMES.get(name, layout.labels)
    return Task(name, about, classes, train, test, layout.metric)


def source(layout: Format) -> Source:
    """Where the files of a task are."""
    validation = layout.dev.replace("dev", "validation")
    return Source(
        "glue",
        {
            "train": (f"{layout.folder}/train.tsv", f"{layout.hub}/train-*.parquet"),
            "test": (f"{layout.folder}/{layout.dev}.tsv", f"{layout.hub}/{validation}-*.parquet"),
        },
        "the archives of gluebenchmark.com",
        hub="nyu-mll/glue",
        tfds=f"glue/{layout.hub}",
        tfds_splits={"test": validation},
    )


def _read(layout: Format, path: Path) -> Iterator[Row]:
    if path.suffix != ".tsv":
        yield from read_rows(path)
        return
    yield from read_tsv(path, layout.header or None, named=not layout.header)


def _record(fields: Fields, layout: Format) -> Record:
    columns = [column for column in (layout.text, layout.pair) if column]
    label = layout.label
    if layout.text not in fields or label not in fields:
        columns, label = list(layout.hub_text), "label"
    texts = [text(fields, column) for column in columns]
    if label not in fields:
        raise ValueError(f"no field {layout.label!r}; found: {', '.join(fields)}")
    return Record(texts[0], _label(fields[label], layout), texts[1] if len(texts) > 1 else None)


def _label(value: object, layout: Format) -> float:
    if layout.labels:
        if isinstance(value, int) and 0 <= value < len(layout.labels):
            return value
        for words in (layout.labels, layout.hub_labels):
            if value in words:
                return words.index(str(value))
        raise ValueError(f"label {value!r} is none of {', '.join(layout.labels)}")
    try:
        score = float(str(value))
    except ValueError:
        raise ValueError(f"score {value!r} is not a number") from None
    if not 0 <= score <= layout.highest:
        raise ValueError(f"score {value} is not between 0 and {layout.highest:g}")
    return score
