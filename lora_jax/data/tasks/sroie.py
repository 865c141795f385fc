"""SROIE: scanned receipts, of which company, date, address and total are to be read.

Files: `key/NNN.json` with the four texts, `box/NNN.csv` with the words of each receipt, and the
pictures. A line of a box file is eight coordinates and a text that may contain commas itself.

Source: Huang et al. 2019, "ICDAR2019 competition on scanned receipt OCR and information
extraction", task 3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from lora_jax.data.names import known
from lora_jax.data.readers import Fields, Row, read_json, read_lines, text
from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source
from lora_jax.data.split import hold_out
from lora_jax.data.text_task import TextRecord, TextTask, ask

SOURCE = Source(
    "sroie",
    {"all": ("key/*.json", "data/key/*.json")},
    "GitHub's zzzDavid/ICDAR-2019-SROIE, in data (626 receipts)",
)
ENTITIES = ("company", "date", "address", "total")
SHOWN = ("image", "text", "both")
PICTURES = ("img/{}.jpg", "img_small/{}.jpg")
TEST_SHARE = 0.2
QUESTION = f"Answer with a JSON object of the receipt's {', '.join(ENTITIES)}."


def sroie(
    directory: str | Path | None = None, *, show: str = "image", bad_rows: str = "raise"
) -> TextTask:
    """Reads SROIE.

    Args:
      directory: holds `key`, `box` and `img` or `img_small`; as of `sources.read_split`.
      show: what the prompt shows of a receipt: its "image", the "text" that was read off it, or
        "both".
      bad_rows: "raise" or "skip".

    Returns:
      The task. The published test set has no public answers in these files, so a hash of their
      names puts a fifth of the receipts into the test set. An entity that a receipt lacks is
      empty. `fields["entities"]` are the four texts.
    """
    known(show, SHOWN, "way to show a receipt")

    def make(fields: Fields, place: str) -> TextRecord:
        file = Path(fields["file"])
        entities = {name: text(fields, name, empty=True) for name in ENTITIES}
        words = "" if show == "image" else "\n".join(word for _, word in read_boxes(box_file(file)))
        return ask(
            f"{words}\n{QUESTION}" if words else QUESTION,
            json.dumps(entities, ensure_ascii=False),
            fields={"entities": entities},
            images=() if show == "text" else (_picture(file),),
            place=place,
        )

    reading = Reading(SOURCE, directory, bad_rows, read_key)
    records = reading.records("all", make)
    train, test = hold_out(records, lambda record: Path(record.place).stem, TEST_SHARE)
    return TextTask(
        "sroie",
        f"{len(records)} receipts of SROIE's training set, a fifth of them held out to test on.",
        train,
        test,
        metrics=("entity_f1", "anls"),
        max_new_tokens=256,
        skipped=tuple(reading.skipped),
    )


Box = tuple[tuple[int, ...], str]


def read_boxes(path: Path) -> list[Box]:
    """Reads the words of a receipt.

    Args:
      path: a file of boxes.

    Returns:
      Of each box its eight coordinates in pixels, x and y of four corners, and its text.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line is malformed; its number is named.
    """
    boxes = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        *corners, word = line.split(",", 8)
        if len(corners) != 8 or not all(corner.strip().isdigit() for corner in corners):
            raise ValueError(f"{path}, line {number}: expected 8 coordinates and a text")
        boxes.append((tuple(int(corner) for corner in corners), word))
    return boxes


def read_key(path: Path) -> Iterator[Row]:
    """Reads the entities of a receipt: one row, with the file's own name as `file`."""
    try:
        yield {**read_json(path), "file": str(path)}, str(path)
    except (ValueError, TypeError) as error:
        yield ValueError(f"no JSON object: {error}"), str(path)


def box_file(key: Path) -> Path:
    """The file of the boxes of the receipt with this file of entities."""
    return key.parent.parent / "box" / f"{key.stem}.csv"


def _picture(key: Path) -> Path:
    names = [name.format(key.stem) for name in PICTURES]
    for name in names:
        if (picture := key.parent.parent / name).is_file():
            return picture
    raise FileNotFoundError(f"no picture {' or '.join(names)} in {key.parent.parent}")
