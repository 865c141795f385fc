"""LLaVA-CoT: questions about pictures, answered by reasoning in stages.

An answer is a SUMMARY, a CAPTION, a REASONING and a CONCLUSION between tags of these names. Rows
without a picture are left out, as the authors' loader does. The set has one split, and is scored
on other sets; a hash holds a fiftieth back here.

Source: Xu et al. 2024, "LLaVA-CoT: let vision language models reason step-by-step".
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lora_jax.data.conversations import from_sharegpt
from lora_jax.data.readers import Fields
from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source
from lora_jax.data.split import hold_out
from lora_jax.data.text_task import TextRecord, TextTask

SOURCE = Source(
    "llava_cot",
    {"all": ("train.jsonl",)},
    "the hub's Xkev/LLaVA-CoT-100k; its pictures are image.zip in parts, which are to be joined "
    "and unpacked beside train.jsonl",
)
ABOUT = "LLaVA-CoT-100k, of which a hash of the ids holds a fiftieth back to test on."
TEST_SHARE = 0.02
_CONCLUSION = re.compile(r"<CONCLUSION>(.*?)</CONCLUSION>", re.DOTALL)


def llava_cot(directory: str | Path | None = None, *, bad_rows: str = "skip") -> TextTask:
    """Reads LLaVA-CoT-100k.

    Args:
      directory: holds `train.jsonl` and the pictures; as of `sources.read_split`.
      bad_rows: "raise" or "skip".

    Returns:
      The task. `fields["conclusion"]` is what the last answer comes to.
    """

    def make(fields: Fields, place: str) -> TextRecord:
        if not fields.get("image"):
            raise ValueError("there is no picture")
        file = Path(place.rpartition(", line")[0]).parent / fields["image"]
        if not file.is_file():
            raise FileNotFoundError(f"there is no picture {file}")
        record = from_sharegpt(
            _without_marks(fields.get("conversations")), images=(file,), place=place
        )
        found = _CONCLUSION.search(record.answer)
        conclusion = found[1].strip() if found else ""
        return record._replace(fields={"id": str(fields.get("id")), "conclusion": conclusion})

    reading = Reading(SOURCE, directory, bad_rows)
    records = reading.records("all", make)
    train, test = hold_out(records, lambda record: record.fields["id"], TEST_SHARE)
    return TextTask(
        "llava_cot",
        ABOUT,
        train,
        test,
        metrics=("rouge_l",),
        max_new_tokens=1024,
        skipped=tuple(reading.skipped),
    )


def _without_marks(turns: Any) -> Any:
    """The turns without the mark for the picture, which the encoder places."""
    if not isinstance(turns, list):
        return turns
    return [
        {**turn, "value": turn["value"].replace("<image>", "").strip()}
        if isinstance(turn, dict) and isinstance(turn.get("value"), str)
        else turn
        for turn in turns
    ]
