"""GSM8K: word problems of grade school, answered in steps that end in "#### " and a number.

The steps hold annotations of a calculator between << and >>, as in "48/2 = <<48/2=24>>24".

Source: Cobbe et al. 2021, "Training verifiers to solve math word problems".
"""

from __future__ import annotations

import re
from pathlib import Path

from lora_jax.data.readers import Fields, text
from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source
from lora_jax.data.text_task import TextRecord, TextTask, ask

SOURCE = Source(
    "gsm8k",
    {
        "train": ("train.jsonl", "main/train-*.parquet"),
        "test": ("test.jsonl", "main/test-*.parquet"),
    },
    "GitHub's openai/grade-school-math, in grade_school_math/data",
    hub="openai/gsm8k",
    tfds="gsm8k",
)
ABOUT = "GSM8K's training and test problems, as published."
FINAL = "#### "


def gsm8k(
    directory: str | Path | None = None,
    *,
    calculator: bool = True,
    steps: bool = True,
    bad_rows: str = "raise",
) -> TextTask:
    """Reads GSM8K.

    Args:
      directory: as of `sources.read_split`.
      calculator: whether answers keep the calculator's annotations.
      steps: whether answers keep the steps; else they are "#### " and the number alone.
      bad_rows: "raise" or "skip".

    Returns:
      The task: 7,473 problems to train on and 1,319 to test on. `fields["final"]` is the number.
    """

    def make(fields: Fields, place: str) -> TextRecord:
        answer = text(fields, "answer")
        solution, mark, final = answer.rpartition(FINAL)
        if not mark or not final.strip():
            raise ValueError(f"the answer has no {FINAL.strip()!r} with a number behind it")
        if not calculator:
            solution = re.sub(r"<<[^<>]*>>", "", solution)
        answer = (solution if steps else "") + mark + final
        return ask(text(fields, "question"), answer, fields={"final": final.strip()}, place=place)

    reading = Reading(SOURCE, directory, bad_rows)
    train, test = (reading.records(split, make) for split in ("train", "test"))
    return TextTask(
        *("gsm8k", ABOUT, train, test),
        metrics=("final_answer",),
        max_new_tokens=256,
        skipped=tuple(reading.skipped),
    )
