"""DART: texts from triples of several sources, tables of Wikipedia among them.

Source: Nan et al. 2021, "DART: open-domain structured data record to text generation".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lora_jax.data.readers import Fields, Row, read_json_rows
from lora_jax.data.reading import Reading
from lora_jax.data.references import group_references
from lora_jax.data.sources import Source
from lora_jax.data.text_task import TextRecord, TextTask
from lora_jax.data.triples import describe_triples

SOURCE = Source(
    "dart",
    {
        "train": ("dart-v1.1.1-full-train.json",),
        "validation": ("dart-v1.1.1-full-dev.json",),
        "test": ("dart-v1.1.1-full-test.json",),
    },
    "GitHub's Yale-LILY/dart, in data/v1.1.1",
)
ABOUT = "DART 1.1.1's training, development and test sets, as published."


def dart(directory: str | Path | None = None, *, bad_rows: str = "raise") -> TextTask:
    """Reads DART.

    Args:
      directory: as of `sources.read_split`.
      bad_rows: "raise" or "skip".

    Returns:
      The task. `fields["source"]` says where a text is from.
    """
    reading = Reading(SOURCE, directory, bad_rows, _read)
    train, validation, test = (reading.records(split, _record) for split in SOURCE.files)
    return TextTask(
        *("dart", ABOUT, train, group_references(test)),
        metrics=("bleu", "meteor_exact_stem", "ter"),
        max_new_tokens=128,
        validation=group_references(validation),
        skipped=tuple(reading.skipped),
    )


def _read(path: Path) -> Iterator[Row]:
    for fields, place in read_json_rows(path):
        if isinstance(fields, ValueError):
            yield fields, place
            continue
        for annotation in fields.get("annotations", ()):
            yield {**fields, **annotation}, place


def _record(fields: Fields, place: str) -> TextRecord:
    source = {"source": fields.get("source", "")}
    return describe_triples(
        fields.get("tripleset", ()), fields, "text", fields_kept=source, place=place
    )
