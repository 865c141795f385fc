"""Pictures of documents beside JSON of what they say, in the form of Donut: receipts and invoices.

A row has a picture and `ground_truth`, a JSON text whose `gt_parse` is the object to answer with.
CORD has receipts of Indonesian shops. The invoices are the electronic ones of Mendeley's "Samples
of electronic invoices".

Source: Kim et al. 2022, "OCR-free document understanding transformer"; Park et al. 2019, "CORD: a
consolidated receipt dataset for post-OCR parsing".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lora_jax.data.names import known
from lora_jax.data.readers import Fields, text
from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source
from lora_jax.data.stored_images import image_bytes
from lora_jax.data.text_task import TextRecord, TextTask, ask


class Documents(NamedTuple):
    """One of the sets: its repository on the hub, and what it holds."""

    hub: str
    about: str


SETS: Mapping[str, Documents] = {
    "cord": Documents("naver-clova-ix/cord-v2", "800, 100 and 100 receipts of CORD"),
    "donut_invoices": Documents(
        "katanaml-org/invoices-donut-data-v1", "425, 50 and 26 electronic invoices"
    ),
}
QUESTION = "Answer with a JSON object of what the document says."


def donut_documents(
    name: str, directory: str | Path | None = None, *, bad_rows: str = "raise"
) -> TextTask:
    """Reads one of the sets.

    Args:
      name: "cord" or "donut_invoices".
      directory: holds the Parquet files of the hub, in `data`; as of `sources.read_split`.
      bad_rows: "raise" or "skip".

    Returns:
      The task. `fields["parse"]` is the object.
    """
    documents = SETS[known(name, SETS, "set of documents")]
    source = Source(
        name,
        {split: (f"data/{split}-*.parquet",) for split in ("train", "validation", "test")},
        f"the hub's {documents.hub}",
        hub=documents.hub,
    )
    reading = Reading(source, directory, bad_rows)
    train, validation, test = (reading.records(split, _record) for split in source.files)
    about = f"{documents.about} to train on, choose by and test on, as published."
    return TextTask(
        *(name, about, train, test),
        metrics=("key_value_overlap", "anls"),
        max_new_tokens=1024,
        validation=validation,
        skipped=tuple(reading.skipped),
    )


def _record(fields: Fields, place: str) -> TextRecord:
    try:
        parse = json.loads(text(fields, "ground_truth"))["gt_parse"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"ground_truth is no JSON with a gt_parse: {error!r}") from error
    if not isinstance(parse, dict) or not parse:
        raise ValueError(f"gt_parse is {str(parse)[:40]!r}, no JSON object")
    answer = json.dumps(parse, ensure_ascii=False)
    images = (image_bytes(fields),)
    return ask(QUESTION, answer, fields={"parse": parse}, images=images, place=place)
