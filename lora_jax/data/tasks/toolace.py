"""ToolACE: conversations in which functions are called. Our choice of a set for tool calling.

Each row has the system's turn, which lists the functions, and a conversation whose last turn is
the assistant's, or is cut to end there. The set has one split; a hash holds a tenth back.

Source: Liu et al. 2024, "ToolACE: winning the points of LLM function calling".
"""

from __future__ import annotations

from pathlib import Path

from lora_jax.data.conversations import from_sharegpt
from lora_jax.data.readers import Fields
from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source
from lora_jax.data.split import hold_out
from lora_jax.data.text_task import TextRecord, TextTask

SOURCE = Source(
    "toolace",
    {"all": ("data.json",)},
    "the hub's Team-ACE/ToolACE",
    hub="Team-ACE/ToolACE",
)
ABOUT = "ToolACE, of which a hash of the conversations holds a tenth back to test on."
TEST_SHARE = 0.1


def toolace(directory: str | Path | None = None, *, bad_rows: str = "skip") -> TextTask:
    """Reads ToolACE.

    Args:
      directory: as of `sources.read_split`.
      bad_rows: "raise" or "skip".

    Returns:
      The task.
    """
    reading = Reading(SOURCE, directory, bad_rows)
    records = reading.records("all", _record)
    train, test = hold_out(records, lambda record: record.prompt, TEST_SHARE)
    return TextTask(
        "toolace",
        ABOUT,
        train,
        test,
        metrics=("tool_calls",),
        max_new_tokens=256,
        skipped=tuple(reading.skipped),
    )


def _record(fields: Fields, place: str) -> TextRecord:
    turns = fields.get("conversations")
    if isinstance(turns, list):
        while turns and isinstance(turns[-1], dict) and turns[-1].get("from") != "assistant":
            turns = turns[:-1]
    return from_sharegpt(turns, system=fields.get("system") or "", place=place)
