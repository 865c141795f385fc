"""CoCoHD's hearings: from the transcript of a hearing to JSON of what is on record about it.

Files: transcripts `CHRG-<congress>/<id>.txt`, and a table of details in Parquet whose columns are
the fields of the answer. Which fields, prompts and split others used for it is not in print: the
fields and the split by a hash of the ids are our choice.

Source: Hiray et al. 2024, "CoCoHD: Congress Committee Hearing Dataset".
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

from lora_jax.data.readers import Fields, read_text, text
from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source
from lora_jax.data.split import hold_out
from lora_jax.data.text_task import TextRecord, TextTask, ask

SOURCE = Source(
    "cocohd_hearings",
    {"all": ("*.parquet", "data/*.parquet")},
    "the hub's gtfintechlab/CoCoHD_transcripts and gtfintechlab/CoCoHD_hearing_details_cleaned, "
    "the latter behind a form",
)
FIELDS = (
    *("title", "congress_session", "chamber", "committee", "committee_mapped", "held_date"),
    *("members", "bill_numbers", "witnesses"),
)
TEST_SHARE = 0.1


def cocohd_hearings(
    directory: str | Path | None = None,
    *,
    fields: tuple[str, ...] = FIELDS,
    bad_rows: str = "skip",
) -> TextTask:
    """Reads CoCoHD's hearings.

    Args:
      directory: holds the table and the folders of transcripts; as of `sources.read_split`.
      fields: columns that make the answer.
      bad_rows: "raise", or "skip" hearings whose transcript is missing.

    Returns:
      The task. `fields["details"]` is the answer as an object.
    """

    def make(row: Fields, place: str) -> TextRecord:
        name = text(row, "govinfo_id")
        table = Path(place.rpartition(", row")[0])
        roots = (table.parent, table.parent.parent)
        found = next((f for root in roots for f in root.glob(f"CHRG-*/{name}.txt")), None)
        if found is None:
            raise FileNotFoundError(f"there is no transcript {name}.txt in a folder CHRG-…")
        details = {field: _plain(row[field]) for field in fields}
        question = f"Answer with a JSON object of the hearing's {', '.join(fields)}."
        return ask(
            f"{read_text(found)}\n{question}",
            json.dumps(details, ensure_ascii=False),
            fields={"id": name, "details": details},
            place=place,
        )

    reading = Reading(SOURCE, directory, bad_rows)
    records = reading.records("all", make)
    train, test = hold_out(records, lambda record: record.fields["id"], TEST_SHARE)
    return TextTask(
        "cocohd_hearings",
        "CoCoHD's hearings, of which a hash of the ids holds a tenth back to test on.",
        train,
        test,
        metrics=("key_value_overlap",),
        max_new_tokens=1024,
        skipped=tuple(reading.skipped),
    )


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    return value.isoformat() if isinstance(value, dt.date) else value
