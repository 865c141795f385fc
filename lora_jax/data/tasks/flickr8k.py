"""Flickr8k: photographs with five captions each. Our choice of a set for captioning.

Files: `captions.txt`, a table of pictures and captions, and the folder `Images`; the published
splits are lists of pictures, `Flickr_8k.trainImages.txt` and so on.

Source: Hodosh et al. 2013, "Framing image description as a ranking task".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from lora_jax.data.readers import Fields, Row, read_csv, read_lines, text
from lora_jax.data.reading import Reading
from lora_jax.data.references import group_references
from lora_jax.data.sources import Source
from lora_jax.data.text_task import TextRecord, TextTask, ask

SOURCE = Source(
    "flickr8k",
    {
        "train": ("Flickr_8k.trainImages.txt",),
        "validation": ("Flickr_8k.devImages.txt",),
        "test": ("Flickr_8k.testImages.txt",),
    },
    "the archive of the University of Illinois that hands out Flickr8k",
)
ABOUT = "Flickr8k's 6,000, 1,000 and 1,000 photographs to train on, choose by and test on."
QUESTION = "Describe the picture in one sentence."


def flickr8k(directory: str | Path | None = None, *, bad_rows: str = "raise") -> TextTask:
    """Reads Flickr8k.

    Args:
      directory: holds the files above; as of `sources.read_split`.
      bad_rows: "raise" or "skip".

    Returns:
      The task: a record to train on for each caption, one to test on for each photograph.
    """
    reading = Reading(SOURCE, directory, bad_rows, _read)
    train, validation, test = (reading.records(split, _record) for split in SOURCE.files)
    return TextTask(
        *("flickr8k", ABOUT, train, group_references(test)),
        metrics=("cider", "bleu", "meteor_exact_stem", "rouge_l_caption"),
        max_new_tokens=48,
        validation=group_references(validation),
        skipped=tuple(reading.skipped),
    )


def _read(path: Path) -> Iterator[Row]:
    """A row for each caption of each picture of a list."""
    captions: dict[str, list[str]] = defaultdict(list)
    for fields, _ in read_csv(path.parent / "captions.txt", ("image", "caption")):
        if not isinstance(fields, ValueError):
            captions[fields["image"]].append(fields["caption"])
    for number, name in enumerate(read_lines(path), 1):
        place = f"{path}, line {number}"
        if name not in captions:
            yield ValueError(f"{name!r} has no caption"), place
        for caption in captions.get(name, ()):
            yield {"image": str(path.parent / "Images" / name), "caption": caption}, place


def _record(fields: Fields, place: str) -> TextRecord:
    picture = Path(fields["image"])
    if not picture.is_file():
        raise FileNotFoundError(f"there is no picture {picture}")
    return ask(QUESTION, text(fields, "caption").strip(), images=(picture,), place=place)
