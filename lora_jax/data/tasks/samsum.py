"""SAMSum: chats and their summaries.

Trap: one chat of the training set is empty; it is left out and counted by default.

Source: Gliwa et al. 2019, "SAMSum corpus: a human-annotated dialogue dataset for abstractive
summarization".
"""

from __future__ import annotations

from pathlib import Path

from lora_jax.data.readers import Fields, text
from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source
from lora_jax.data.text_task import TextRecord, TextTask, ask

SOURCE = Source(
    "samsum",
    {
        "train": ("train.json", "train.csv"),
        "validation": ("val.json", "validation.csv"),
        "test": ("test.json", "test.csv"),
    },
    "the archive corpus.7z beside arXiv's 1911.12237",
    hub="knkarthick/samsum",
    tfds="samsum",
)
ABOUT = "SAMSum's training, validation and test sets, as published."
QUESTION = "Summarise the conversation."


def samsum(directory: str | Path | None = None, *, bad_rows: str = "skip") -> TextTask:
    """Reads SAMSum.

    Args:
      directory: as of `sources.read_split`.
      bad_rows: "raise" or "skip".

    Returns:
      The task: 14,732, 818 and 819 chats to train on, choose by and test on, as published.
    """
    reading = Reading(SOURCE, directory, bad_rows)
    train, validation, test = (reading.records(split, _record) for split in SOURCE.files)
    return TextTask(
        *("samsum", ABOUT, train, test),
        metrics=("rouge_1", "rouge_2", "rouge_l"),
        max_new_tokens=128,
        validation=validation,
        skipped=tuple(reading.skipped),
    )


def _record(fields: Fields, place: str) -> TextRecord:
    dialogue = text(fields, "dialogue").replace("\r\n", "\n")
    return ask(f"{dialogue}\n{QUESTION}", text(fields, "summary").strip(), place=place)
