"""CoCoHD's labelled sentences from hearings of the US Congress.

Two sets: whether a sentence is relevant (to the usage of fossil fuels and clean energy), and, of
relevant ones, whether it supports that or discourages it; the authors' code does not spell out
which of "p" and "d" is which, so the letters stay. The two published versions of the labels
disagree on an eighth of the second set: a perfect score is not to be had. Version 2 is read.

Source: Hiray et al. 2024, "CoCoHD: Congress Committee Hearing Dataset", and its code for the
protocol: three seeds, a fifth to test on, a fifth of the rest to choose by, weighted F1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lora_jax.data.names import known
from lora_jax.data.readers import Fields, text
from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source
from lora_jax.data.split import shuffled_split
from lora_jax.data.task import Record, Task

SEEDS = (5768, 78516, 944601)
TEST_SHARE = 0.2


class Part(NamedTuple):
    """One of the sets: its file, its labels, and names for them."""

    file: str
    labels: tuple[str, ...]
    classes: tuple[str, ...]


PARTS: Mapping[str, Part] = {
    "cocohd_relevancy": Part(
        "relevancy_classifier_labeled_data_1000_v2.csv", ("i", "r"), ("irrelevant", "relevant")
    ),
    "cocohd_inc_dec": Part(
        "inc_dec_classifier_labeled_data_709_v2.csv", ("p", "d", "n"), ("p", "d", "n")
    ),
}


def cocohd(
    name: str,
    directory: str | Path | None = None,
    *,
    seed: int = SEEDS[0],
    bad_rows: str = "raise",
) -> Task:
    """Reads one of the two sets.

    Args:
      name: "cocohd_relevancy" or "cocohd_inc_dec".
      directory: as of `sources.read_split`.
      seed: of the split; the published ones are `SEEDS`, and make the published test sets. Which
        fifth of the others is for choosing was drawn otherwise there, and is drawn with the same
        seed here.
      bad_rows: "raise" or "skip".

    Returns:
      The task, with a validation set.
    """
    part = PARTS[known(name, PARTS, "part of CoCoHD")]

    def make(fields: Fields, _: str) -> Record:
        label = text(fields, "label")
        if label not in part.labels:
            raise ValueError(f"label {label!r} is none of {', '.join(part.labels)}")
        return Record(text(fields, "sentences"), part.labels.index(label))

    source = Source(
        *("cocohd", {"all": (part.file, f"data/finetune_data/{part.file}")}),
        origin="GitHub's gtfintechlab/CoCoHD, in data/finetune_data",
    )
    reading = Reading(source, directory, bad_rows)
    rest, test = shuffled_split(reading.records("all", make), TEST_SHARE, seed)
    train, validation = shuffled_split(rest, TEST_SHARE, seed)
    about = (
        f"CoCoHD's labelled sentences (version 2), split with the published seed {seed}: a fifth "
        f"to test on, a fifth of the rest to choose by."
    )
    if seed not in SEEDS:
        about = about.replace("published seed", "seed")
    if reading.skipped:
        about += f" {len(reading.skipped)} malformed rows are left out."
    return Task(name, about, part.classes, train, test, "f1_weighted", validation)
