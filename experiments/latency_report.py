"""What the study of latency found: a table in the terminal, results.json and report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from rich.console import Console

from lora_jax import reports
from lora_jax.evaluation import Latency
from lora_jax.reports import Column, Published, Section, html, print_table

BASE, AGAIN, MERGED, UNMERGED = "base", "base again", "LoRA merged", "LoRA unmerged"
SOURCE = "Hu et al. 2021, table 1"

# Batch, length and contender; milliseconds of GPT-2 medium on a Quadro RTX 8000, and the slowdown.
PUBLISHED = (
    (32, 512, "LoRA merged = base", 1449.4, None),
    (32, 512, "Adapter-L, 0.5 M", 1482.0, 1.022),
    (32, 512, "Adapter-H, 0.5 M", 1492.2, 1.030),
    (16, 256, "LoRA merged = base", 338.0, None),
    (16, 256, "Adapter-L, 11 M", 354.8, 1.050),
    (16, 256, "Adapter-H, 11 M", 366.3, 1.084),
    (1, 128, "LoRA merged = base", 19.8, None),
    (1, 128, "Adapter-L, 11 M", 23.9, 1.207),
    (1, 128, "Adapter-H, 11 M", 25.8, 1.303),
)


class Cell(NamedTuple):
    """One batch size and length.

    Attributes:
      batch: number of rows.
      length: tokens of each.
      difference: the largest one between the logits of merged and unmerged LoRA.
      latencies: of each contender, timed in the same rounds.
    """

    batch: int
    length: int
    difference: float
    latencies: Mapping[str, Latency]


COLUMNS = (
    Column("where", "contender"),
    Column("shape", "batch x length"),
    Column("added", "added parameters", "{:,}"),
    Column("milliseconds", "median, ms", "{:.1f}"),
    Column("error", "± of it", "{:.1%}"),
    Column("ratio", "times the base", "{:.3f}"),
    Column("interval", "95 % interval"),
)


def print_cells(console: Console, cells: Sequence[Cell], added: Mapping[str, int]) -> None:
    """Prints the table, published figures below."""
    print_table(rows(cells, added), COLUMNS, title="Latency of one pass", console=console)
    console.print(finding(cells))


def write_report(
    workdir: Path, config: ConfigDict, cells: Sequence[Cell], added: Mapping[str, int]
) -> None:
    """Writes results.json and report.html."""
    measured = [row for row in rows(cells, added) if not isinstance(row, Published)]
    table = html.table(rows(cells, added), COLUMNS)
    about = html.paragraph(
        "Adapter-H has a bottleneck behind attention and one behind the feed-forward block; "
        "Adapter-L one behind the latter, with a layer norm. The published rows are of GPT-2 "
        "medium on a GPU: their milliseconds are not comparable with those above, their ratios "
        "are of the same question."
    )
    reports.write_report(
        workdir,
        "latency",
        config.to_dict(),
        {"cells": measured, "differences": {_shape(cell): cell.difference for cell in cells}},
        title="What an adapter costs when a model is used",
        sections=[Section("Latency of one pass", [table, about])],
        lead=f"GPT-2 with {config.model.layers} layers of width {config.model.dim} in "
        f"{config.model.dtype}, random weights; {config.rounds} rounds, each times every "
        "contender once.",
        finding=finding(cells),
    )


def rows(cells: Sequence[Cell], added: Mapping[str, int]) -> list[Any]:
    """What was measured, then what was published."""
    measured = [
        _row(cell, name, latency, added[name])
        for cell in cells
        for name, latency in cell.latencies.items()
    ]
    published = [
        Published(
            SOURCE,
            {
                "where": name,
                "shape": f"{batch} x {length}",
                "milliseconds": milliseconds,
                "ratio": ratio,
            },
        )
        for batch, length, name, milliseconds, ratio in PUBLISHED
    ]
    return [*measured, *published]


def finding(cells: Sequence[Cell]) -> str:
    """The ratios that the paper's claim is about, and how far merging changes what is said.

    Returns:
      Medians with their 95 % intervals.
    """
    parts = []
    for cell in cells:
        ratios = [
            "{} {:.3f} ({:.3f} – {:.3f})".format(name, *own.ratio_to(cell.latencies[BASE]))
            for name, own in cell.latencies.items()
            if name != BASE
        ]
        parts.append(f"{_shape(cell)}: {', '.join(ratios)} times the base")
    largest = max(cell.difference for cell in cells)
    return f"{'; '.join(parts)}. Merged and unmerged logits differ by at most {largest:.1e}."


def _row(cell: Cell, name: str, latency: Latency, added: int) -> dict[str, Any]:
    ratio, low, high = latency.ratio_to(cell.latencies[BASE])
    return {
        "where": name,
        "shape": _shape(cell),
        "added": added,
        "milliseconds": 1000 * latency.median,
        "error": latency.relative_error,
        "ratio": ratio,
        "interval": f"{low:.3f} – {high:.3f}",
    }


def _shape(cell: Cell) -> str:
    return f"{cell.batch} x {cell.length}"
