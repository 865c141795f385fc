"""BoolQ: questions to be answered yes or no from a passage.

Source: Clark et al. 2019, "BoolQ: exploring the surprising difficulty of natural yes/no questions".
"""

from __future__ import annotations

from pathlib import Path

from lora_jax.data.readers import Fields, text
from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source
from lora_jax.data.text_task import TextRecord, TextTask, ask

SOURCE = Source(
    "bool_q",
    {
        "train": ("train.jsonl", "data/train-*.parquet"),
        "validation": ("dev.jsonl", "data/validation-*.parquet"),
    },
    "GitHub's google-research-datasets/boolean-questions",
    hub="google/boolq",
    tfds="bool_q",
)
ABOUT = "BoolQ's training file, and its dev file as the test set: the test answers are not public."


def bool_q(directory: str | Path | None = None, *, bad_rows: str = "raise") -> TextTask:
    """Reads BoolQ.

    Args:
      directory: as of `sources.read_split`.
      bad_rows: "raise" or "skip".

    Returns:
      The task: 9,427 questions to train on and 3,270 to test on, as published.
    """
    reading = Reading(SOURCE, directory, bad_rows)
    train, test = (reading.records(split, _record) for split in SOURCE.files)
    return TextTask(
        *("bool_q", ABOUT, train, test),
        metrics=("exact_match",),
        max_new_tokens=4,
        skipped=tuple(reading.skipped),
    )


def _record(fields: Fields, place: str) -> TextRecord:
    answer = fields.get("answer")
    if not isinstance(answer, bool):
        raise ValueError(f"field 'answer' is {answer!r}, not true or false")
    question = text(fields, "question").strip().removesuffix("?")
    prompt = f"{text(fields, 'passage')}\n{question}? Answer yes or no."
    return ask(prompt, "yes" if answer else "no", place=place)
