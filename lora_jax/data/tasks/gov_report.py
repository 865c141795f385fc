"""GovReport: reports of the US government and their summaries.

The original archive has a file of JSON a report, and lists of ids a split; reports are trees of
sections, written out here with their titles. TFDS's builder `gov_report` is not read: it writes
every summary as an empty text.

Source: Huang et al. 2021, "Efficient attentions for long document summarization".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_jax.data.readers import Fields, Row, read_json, read_lines, read_rows, text
from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source
from lora_jax.data.text_task import TextRecord, TextTask, ask

SOURCE = Source(
    "gov_report",
    {
        split: (
            f"split_ids/*_{name}.ids",
            f"gov-report/split_ids/*_{name}.ids",
            f"document/{split}-*.parquet",
            f"data/{split}-*.parquet",
        )
        for split, name in {"train": "train", "validation": "valid", "test": "test"}.items()
    },
    "the archive that gov-report-data.github.io names, or the hub's ccdv/govreport-summarization",
    hub="ccdv/govreport-summarization",
)
ABOUT = "GovReport's training, validation and test sets, as published."
QUESTION = "Summarise the report."


def gov_report(directory: str | Path | None = None, *, bad_rows: str = "raise") -> TextTask:
    """Reads GovReport.

    Args:
      directory: holds the archive's `split_ids`, `crs` and `gao`, or the hub's Parquet; as of
        `sources.read_split`.
      bad_rows: "raise" or "skip".

    Returns:
      The task: 17,519, 974 and 973 reports to train on, choose by and test on, as published.
    """
    reading = Reading(SOURCE, directory, bad_rows, _read)
    train, validation, test = (reading.records(split, _record) for split in SOURCE.files)
    return TextTask(
        *("gov_report", ABOUT, train, test),
        metrics=("rouge_l_summary", "rouge_1", "rouge_2"),
        max_new_tokens=1024,
        validation=validation,
        skipped=tuple(reading.skipped),
    )


def write_sections(sections: Any) -> str:
    r"""Writes a tree of sections out: title, paragraphs, and the sections inside.

    Args:
      sections: one, or a list of them, each with a `section_title`, `paragraphs` and `subsections`.

    >>> write_sections({"section_title": "A", "paragraphs": ["One.", "Two."], "subsections": []})
    'A\nOne.\nTwo.'
    """
    if isinstance(sections, list):
        return "\n".join(filter(None, map(write_sections, sections)))
    inner = write_sections(sections.get("subsections") or [])
    parts = (sections.get("section_title") or "", *(sections.get("paragraphs") or ()), inner)
    return "\n".join(part.strip() for part in parts if part.strip())


def _read(path: Path) -> Iterator[Row]:
    if path.suffix != ".ids":
        yield from read_rows(path)
        return
    kind = path.stem.partition("_")[0]
    for number, name in enumerate(read_lines(path), 1):
        place = f"{path}, line {number}"
        try:
            report = read_json(path.parent.parent / kind / f"{name}.json")
            yield _original(report, kind), place
        except (ValueError, FileNotFoundError) as error:
            yield ValueError(str(error)), place


def _original(report: Fields, kind: str) -> Fields:
    if kind == "crs":
        return {
            "report": write_sections(report.get("reports") or []),
            "summary": "\n".join(report.get("summary") or ()),
        }
    sections = {key: write_sections(report.get(key) or []) for key in ("report", "highlight")}
    return {"report": sections["report"], "summary": sections["highlight"]}


def _record(fields: Fields, place: str) -> TextRecord:
    report = text(fields, "document" if "document" in fields else "report")
    return ask(f"{report}\n{QUESTION}", text(fields, "summary").strip(), place=place)
