"""ARC: science questions of grade school with three to five options.

Trap: some questions number their options 1, 2, 3 where others have letters; prompts have letters.

Source: Clark et al. 2018, "Think you have solved question answering? Try ARC".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_jax.data.multiple_choice import choose
from lora_jax.data.names import known
from lora_jax.data.readers import Fields, text
from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source
from lora_jax.data.text_task import TextRecord, TextTask

CONFIGS: Mapping[str, str] = {"arc_challenge": "ARC-Challenge", "arc_easy": "ARC-Easy"}


def arc(name: str, directory: str | Path | None = None, *, bad_rows: str = "raise") -> TextTask:
    """Reads one of the two sets.

    Args:
      name: "arc_challenge" or "arc_easy".
      directory: as of `sources.read_split`.
      bad_rows: "raise" or "skip".

    Returns:
      The task: 1,119, 299 and 1,172 questions (challenge) or 2,251, 570 and 2,376 (easy) to train
      on, choose by and test on, as published.
    """
    config = CONFIGS[known(name, CONFIGS, "set of ARC")]
    names = {"train": "Train", "validation": "Dev", "test": "Test"}
    source = Source(
        "arc",
        {
            split: (f"{config}/{config}-{part}.jsonl", f"{config}/{split}-*.parquet")
            for split, part in names.items()
        },
        "the archive ARC-V1-Feb2018 of the Allen Institute for AI",
        hub="allenai/ai2_arc",
        tfds=f"ai2_arc/{config}",
    )
    reading = Reading(source, directory, bad_rows)
    train, validation, test = (reading.records(split, _record) for split in names)
    return TextTask(
        *(name, f"{config}'s training, validation and test questions, as published.", train, test),
        metrics=("choice",),
        max_new_tokens=4,
        validation=validation,
        skipped=tuple(reading.skipped),
    )


def _record(fields: Fields, place: str) -> TextRecord:
    question: Any = fields.get("question")
    if isinstance(question, dict):  # the original files keep the options inside
        options = [(one["label"], one["text"]) for one in question["choices"]]
        question = question["stem"]
    else:
        question = text(fields, "question")
        options = list(zip(fields["choices"]["label"], fields["choices"]["text"], strict=True))
    names = [_letter(label) for label, _ in options]
    right = _letter(text(fields, "answerKey"))
    if right not in names:
        raise ValueError(f"answerKey {right!r} is none of the options {', '.join(names)}")
    kept = {"id": fields.get("id", "")}
    return choose(question, [o for _, o in options], names.index(right), fields=kept, place=place)


def _letter(label: str) -> str:
    """The letter of an option, which some call by a number."""
    return dict(zip("12345", "ABCDE", strict=True)).get(label, label)
