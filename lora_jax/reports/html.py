"""The pieces a page is made of: text, tables, figures, settings. All text given is escaped."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lora_jax.reports.results import to_plain
from lora_jax.reports.tables import Cell, Column, Published, Row, cells


def paragraph(text: str) -> str:
    """Show plain text.

    >>> paragraph("a < b")
    '<p>a &lt; b</p>'
    """
    return f"<p>{escape(text)}</p>"


def command(line: str) -> str:
    """Show a command as one would type it."""
    return f"<pre><code>{escape(line)}</code></pre>"


def figure(svg: str, caption: str) -> str:
    """Show a plot and what it says.

    Args:
      svg: An <svg> element, from one of the plots of `lora_jax.reports`.
      caption: Below it, as plain text.

    Returns:
      A piece of HTML.
    """
    return f"<figure>\n{svg}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def table(rows: Sequence[Row], columns: Sequence[Column], *, highlight: str | None = None) -> str:
    """Show rows that a click on a column's title sorts.

    Args:
      rows: Mappings, dataclasses or NamedTuples; one as `Published` is set apart.
      columns: What to show of each.
      highlight: The row whose first column reads so stands out.

    Returns:
      A piece of HTML.
    """
    written = cells(rows, columns)
    numeric = [any(row[index].is_number for row in written) for index in range(len(columns))]
    head = "".join(
        f"<th scope=col{_align(is_number)}><button>{escape(column.title)}</button></th>"
        for column, is_number in zip(columns, numeric, strict=True)
    )
    kinds = [_kind(row, line[0].text == highlight) for row, line in zip(rows, written, strict=True)]
    body = "\n".join(map(_row_html, kinds, written, itertools.repeat(numeric)))
    return (
        '<div class="scroll"><table class="sortable">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def fields(values: Mapping[str, Any]) -> str:
    """Show names and values, such as versions."""
    items = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in values.items()
    )
    return f"<dl>{items}</dl>"


def settings(config: Mapping[str, Any], summary: str = "Configuration") -> str:
    """Show a nested configuration, folded until it is clicked."""
    text = json.dumps(to_plain(config, "config"), indent=2)
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def _kind(row: Row, is_highlighted: bool) -> str:
    if isinstance(row, Published):
        return ' class="published"'
    return ' class="highlight"' if is_highlighted else ""


def _row_html(kind: str, row: Sequence[Cell], numeric: Sequence[bool]) -> str:
    return f"<tr{kind}>{''.join(map(_cell_html, row, numeric))}</tr>"


def _cell_html(cell: Cell, is_number: bool) -> str:
    known = cell.is_number and math.isfinite(cell.value)
    key = f' data-value="{float(cell.value)!r}"' if known else ""
    return f"<td{_align(is_number)}{key}>{escape(cell.text)}</td>"


def _align(is_number: bool) -> str:
    return ' class="number"' if is_number else ""
