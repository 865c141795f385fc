"""SROIE's receipts line by line: is a line the company, its address, the date, the total, or none?

The set labels receipts, not lines. A line of the box file belongs to the company or the address if
it is part of that text, white space and case aside, and to the date or the total if it holds that
text. So a price that is also the total counts as the total wherever it stands, and a line that was
read wrongly counts as none.

Source: as `sroie`; labels of lines after task 3 as in Xu et al. 2020, "LayoutLM: Pre-training of
text and layout for document image understanding", which labels words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lora_jax.data.readers import Fields, text
from lora_jax.data.reading import Reading
from lora_jax.data.split import hold_out
from lora_jax.data.task import Record, Task
from lora_jax.data.tasks.sroie import ENTITIES, SOURCE, TEST_SHARE, box_file, read_boxes, read_key

CLASSES = ("other", *ENTITIES)
SHORTEST = 4  # characters of a line of the address


def sroie_lines(directory: str | Path | None = None, *, bad_rows: str = "raise") -> Task:
    """Reads the lines of SROIE's receipts.

    Args:
      directory: holds `key` and `box`; as of `sources.read_split`.
      bad_rows: "raise" or "skip".

    Returns:
      The task: the text of a line, the line before it as the second text, and which of `CLASSES` it
      is. The lines of a receipt are on one side, that of the receipt in `sroie`.
    """

    def make(fields: Fields, _: str) -> tuple[str, list[Record]]:
        file = Path(fields["file"])
        entities = {name: text(fields, name, empty=True) for name in ENTITIES}
        lines = [line for _, line in read_boxes(box_file(file)) if line.strip()]
        labels = [CLASSES.index(line_class(line, entities)) for line in lines]
        before = ["", *lines]
        return file.stem, [Record(*row) for row in zip(lines, labels, before, strict=False)]

    reading = Reading(SOURCE, directory, bad_rows, read_key)
    receipts = reading.records("all", make)
    train, test = hold_out(receipts, lambda receipt: receipt[0], TEST_SHARE)
    lines = lambda side: tuple(record for _, records in side for record in records)
    return Task(
        "sroie_lines",
        f"Lines of {len(receipts)} receipts of SROIE's training set, a fifth of the receipts held "
        f"out to test on; labelled here, by the texts of the receipt.",
        *(CLASSES, lines(train), lines(test), "f1_macro"),
    )


def line_class(line: str, entities: Mapping[str, str]) -> str:
    """Which of a receipt's texts a line belongs to.

    >>> line_class("DATE: 25/12/2018 8:13 PM", {"date": "25/12/2018"})
    'date'
    >>> line_class("81100 Johor Bahru,", {"address": "12, JALAN 8, 81100 JOHOR BAHRU, JOHOR."})
    'address'
    """
    for name in ("date", "total"):
        value = entities.get(name, "")
        if value and re.search(rf"(?<![\d.,]){re.escape(value)}(?!\d)", line):
            return name
    found, company, address = map(
        _letters, (line, entities.get("company", ""), entities.get("address", ""))
    )
    # A company may be called by its place, which the address names too.
    if found in company and 2 * len(found) > len(company):
        return "company"
    return "address" if len(found) >= SHORTEST and found in address else "other"


def _letters(line: str) -> str:
    return re.sub(r"[\W_]+", "", line).casefold()
