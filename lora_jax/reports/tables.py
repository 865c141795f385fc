"""Tables of results: the same columns and rows for the terminal and for the page."""

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from lora_jax.evaluation.intervals import Interval
from lora_jax.evaluation.latency import Latency

Row = Any
"""A mapping, a dataclass or a NamedTuple, or one of these as `Published`."""


class Column(NamedTuple):
    """One column: which field of a row it shows, under what title, and how it is written."""

    field: str
    title: str
    write: str | Callable[[Any], str] = "{}"
    """A format such as "{:.1%}", or a function of the value."""


class Published(NamedTuple):
    """A row that was not measured here: its first column says where it was published."""

    source: str
    """Such as "Hu et al. 2021, table 5"."""
    row: Row
    """As other rows; what is not known is left out."""


class Cell(NamedTuple):
    """What one place of a table shows, and what it is sorted by."""

    text: str
    value: Any
    is_number: bool


def plus_minus(
    digits: int = 3, *, scale: float = 1, unit: str = ""
) -> Callable[[Interval | float], str]:
    """Make a writer of intervals for a column; of a plain number it writes no spread.

    Args:
      digits: After the decimal point.
      scale: What to multiply by, such as 100 for percent.
      unit: What to add at the end.

    Returns:
      A function of an interval; one without ends, of a single seed, is written as its mean.

    >>> plus_minus(1, scale=100, unit=" %")(Interval(0.785, 0.765, 0.805))
    '78.5 ± 2.0 %'
    """

    def write(value: Interval | float) -> str:
        interval = value if isinstance(value, Interval) else Interval(value, math.nan, math.nan)
        half = interval.half_width * scale
        spread = "" if math.isnan(half) else f" ± {half:.{digits}f}"
        return f"{interval.mean * scale:.{digits}f}{spread}{unit}"

    return write


def brackets(form: str = ".3f") -> Callable[[Interval | float], str]:
    """Make a writer of intervals by their ends, which need not lie evenly around the mean.

    Args:
      form: Of each number, as in a format string.

    Returns:
      A function of an interval; one without ends, and a plain number, is written without them.

    >>> brackets("+.2f")(Interval(0.012, 0.002, 0.022))
    '+0.01 [+0.00, +0.02]'
    """

    def write(value: Interval | float) -> str:
        if not isinstance(value, Interval):
            return f"{value:{form}}"
        ends = "" if math.isnan(value.low) else f" [{value.low:{form}}, {value.high:{form}}]"
        return f"{value.mean:{form}}{ends}"

    return write


def published_rows(
    source: str, columns: Sequence[Column], rows: Iterable[Sequence[Any]]
) -> list[Published]:
    """Make rows of what was published.

    Args:
      source: Such as "Hu et al. 2021, table 5".
      columns: Of the table that shows them.
      rows: A value for each column, or for the first few.

    >>> published_rows("table 5", [Column("name", "weights"), Column("rank", "rank")], [("Wq", 8)])
    [Published(source='table 5', row={'name': 'Wq', 'rank': 8})]
    """
    fields = [column.field for column in columns]
    return [Published(source, dict(zip(fields, row, strict=False))) for row in rows]


def cells(rows: Sequence[Row], columns: Sequence[Column]) -> list[list[Cell]]:
    """Write out every place of a table.

    Args:
      rows: Mappings, dataclasses or NamedTuples; a field that is None or absent is shown as "–".
      columns: What to show of each.

    Returns:
      One list of cells a row.

    Raises:
      ValueError: If no row at all has the field of some column.

    >>> cells([{"acc": 0.8}], [Column("acc", "accuracy", "{:.0%}")])[0][0].text
    '80%'
    """
    records = [_record(row.row if isinstance(row, Published) else row) for row in rows]
    for column in columns:
        if records and not any(column.field in record for record in records):
            known = ", ".join(records[0])
            raise ValueError(f"no row has a field {column.field!r}; the first has {known}")
    written = [
        [_cell(record.get(column.field), column) for column in columns] for record in records
    ]
    for row, line in zip(rows, written, strict=True):
        if isinstance(row, Published):
            line[0] = line[0]._replace(text=f"{line[0].text} (published: {row.source})")
    return written


def make_table(
    rows: Sequence[Row], columns: Sequence[Column], *, title: str | None = None
) -> Table:
    """Lay out a table for the terminal.

    Args:
      rows: Mappings, dataclasses or NamedTuples.
      columns: What to show of each.
      title: Above the table.

    Returns:
      A table that a rich console prints; numbers stand to the right.
    """
    body = cells(rows, columns)
    table = Table(
        title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    for index, column in enumerate(columns):
        is_number = any(row[index].is_number for row in body)
        justify: JustifyMethod = "right" if is_number else "left"
        # A narrow terminal breaks names over lines; a number is never broken.
        table.add_column(column.title, justify=justify, no_wrap=is_number, overflow="fold")
    for row in body:
        # As Text, so that brackets in a name are not taken for markup.
        table.add_row(*(Text(cell.text) for cell in row))
    return table


def print_table(
    rows: Sequence[Row],
    columns: Sequence[Column],
    *,
    title: str | None = None,
    console: Console | None = None,
) -> None:
    """Print a table to the terminal.

    Args:
      rows: Mappings, dataclasses or NamedTuples.
      columns: What to show of each.
      title: Above the table.
      console: Where to print; standard output by default.
    """
    (console or Console()).print(make_table(rows, columns, title=title))


def _record(row: Row) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    if dataclasses.is_dataclass(row):
        return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    if hasattr(row, "_asdict"):
        return row._asdict()
    raise ValueError(f"a row is a mapping, a dataclass or a NamedTuple, not {type(row).__name__}")


def _cell(value: Any, column: Column) -> Cell:
    if value is None:
        return Cell("–", None, is_number=False)
    text = column.write(value) if callable(column.write) else column.write.format(value)
    key = _sort_key(value)
    return Cell(text, key, isinstance(key, numbers.Real))


def _sort_key(value: Any) -> Any:
    if isinstance(value, Interval):
        return value.mean
    return value.median if isinstance(value, Latency) else value
