"""MedMCQA: questions of Indian medical entrance exams with four options.

Traps: `cop`, the right option, counts from 1 in the original files (which are JSON lines, though
named .json) and from 0 in the hub's copy. The counts in the table of the repository's README are
swapped: the validation file has 4,183 questions, the test file 6,150. The test file's answers are
not public, so the validation file is the test set here. "multi" questions have one `cop` as well.

Source: Pal et al. 2022, "MedMCQA: a large-scale multi-subject multi-choice dataset for medical
domain question answering".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lora_jax.data.multiple_choice import choose
from lora_jax.data.names import known
from lora_jax.data.readers import Fields, Row, read_rows, text
from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source
from lora_jax.data.split import hold_out
from lora_jax.data.text_task import TextRecord, TextTask

SOURCE = Source(
    "medmcqa",
    {
        "train": ("train.json", "data/train-*.parquet"),
        "validation": ("dev.json", "data/validation-*.parquet"),
    },
    "the archive that GitHub's medmcqa/medmcqa names",
    hub="openlifescienceai/medmcqa",
)
OPTIONS = ("opa", "opb", "opc", "opd")
SPLITS = ("published", "validation")


def medmcqa(
    directory: str | Path | None = None,
    *,
    split: str = "published",
    bad_rows: str = "raise",
) -> TextTask:
    """Reads MedMCQA.

    Args:
      directory: as of `sources.read_split`.
      split: "published" trains on the training file and tests on the validation file. "validation"
        needs that file only: a hash of their ids puts a fifth of its questions into the test set.
      bad_rows: "raise" or "skip".

    Returns:
      The task. `fields` hold the subject and the index of the right option.
    """
    known(split, SPLITS, "split")
    reading = Reading(SOURCE, directory, bad_rows, _read)
    validation = reading.records("validation", _record)
    if split == "published":
        train, test = reading.records("train", _record), validation
        about = "MedMCQA's training file, and its validation file as the test set."
    else:
        train, test = hold_out(validation, lambda record: record.fields["id"], 0.2)
        about = "MedMCQA's validation file alone, a fifth of it held out: no published split."
    return TextTask(
        *("medmcqa", about, train, test),
        metrics=("choice",),
        max_new_tokens=4,
        skipped=tuple(reading.skipped),
    )


def _read(path: Path) -> Iterator[Row]:
    """Reads an original file, and counts options from 0 as the hub's Parquet does."""
    for fields, place in read_rows(path):
        if isinstance(fields, ValueError) or not isinstance(fields.get("cop"), int):
            yield fields, place
        elif fields["cop"] < 1:
            fault = f"cop is {fields['cop']}, but options count from 1 in the original files"
            yield ValueError(f"{fault}; is this a copy from the hub? It is read as Parquet"), place
        else:
            yield {**fields, "cop": fields["cop"] - 1}, place


def _record(fields: Fields, place: str) -> TextRecord:
    if not isinstance(fields.get("cop"), int):
        raise ValueError(f"field 'cop' is {fields.get('cop')!r}, which is no option")
    kept = {name: fields.get(name) for name in ("id", "subject_name", "choice_type")}
    options = tuple(text(fields, name) for name in OPTIONS)
    kept["right"] = fields["cop"]
    return choose(text(fields, "question"), options, fields["cop"], fields=kept, place=place)
