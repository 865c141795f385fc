"""MMLU: exam questions of 57 subjects with four options.

The original files are CSV without names of columns, one a subject: question, four options, and the
letter of the right one. On the hub the options are a list and the answer is an index.

Source: Hendrycks et al. 2021, "Measuring massive multitask language understanding".
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from lora_jax.data.multiple_choice import choose
from lora_jax.data.readers import Fields, Row, read_rows, read_text, text
from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source
from lora_jax.data.text_task import TextRecord, TextTask

SOURCE = Source(
    "mmlu",
    {
        "train": ("auxiliary_train/*.csv", "all/auxiliary_train-*.parquet"),
        "dev": ("dev/*_dev.csv", "all/dev-*.parquet"),
        "validation": ("val/*_val.csv", "all/validation-*.parquet"),
        "test": ("test/*_test.csv", "all/test-*.parquet"),
    },
    "the archive that GitHub's hendrycks/test names",
    hub="cais/mmlu",
)
ABOUT = "MMLU: {} to train on; its validation and test sets, as published."
LETTERS = "ABCD"


def mmlu(
    directory: str | Path | None = None, *, train: str = "train", bad_rows: str = "raise"
) -> TextTask:
    """Reads MMLU.

    Args:
      directory: as of `sources.read_split`.
      train: "train" trains on the auxiliary questions of other sets, "dev" on the five questions
        of each subject that are meant to be shown as examples.
      bad_rows: "raise" or "skip".

    Returns:
      The task; `fields["subject"]` names the subject, where the source does.
    """
    if train not in ("train", "dev"):
        raise ValueError(f"train is {train!r}, not 'train' or 'dev'")
    reading = Reading(SOURCE, directory, bad_rows, _read)
    records, validation, test = (
        reading.records(split, _record) for split in (train, "validation", "test")
    )
    kind = "auxiliary questions" if train == "train" else "five questions of each subject"
    return TextTask(
        *("mmlu", ABOUT.format(kind), records, test),
        metrics=("choice",),
        max_new_tokens=4,
        validation=validation,
        skipped=tuple(reading.skipped),
    )


def _read(path: Path) -> Iterator[Row]:
    if path.suffix != ".csv":
        yield from read_rows(path)
        return
    lines = csv.reader(io.StringIO(read_text(path), newline=""))
    subject = path.stem.rpartition("_")[0]
    for fields in lines:
        place = f"{path}, line {lines.line_num}"
        if len(fields) != 6 or fields[5] not in LETTERS:
            fault = f"expected a question, 4 options and a letter of {LETTERS}, found {fields}"
            yield ValueError(fault[:200]), place
            continue
        question, *options, letter = fields
        right = LETTERS.index(letter)
        yield (
            {"question": question, "subject": subject, "choices": options, "answer": right},
            place,
        )


def _record(fields: Fields, place: str) -> TextRecord:
    right = fields.get("answer")
    if not isinstance(right, int):
        raise ValueError(f"field 'answer' is {right!r}, which is no index of an option")
    subject = {"subject": fields.get("subject") or ""}
    options = [str(option) for option in fields.get("choices") or ()]
    return choose(text(fields, "question"), options, right, fields=subject, place=place)
