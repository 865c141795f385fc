"""Tables: fields between tabs without any quoting, or between commas with quotation marks."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from lora_jax.data.readers.row import Row
from lora_jax.data.readers.text import read_lines, read_text


def read_tsv(
    path: Path, header: Sequence[str] | None = None, *, named: bool = True
) -> Iterator[Row]:
    """Reads a table of fields between tabs; a quotation mark is a character like any other.

    Args:
      path: the file.
      header: names of its columns; None takes those that it names.
      named: whether its first line names the columns; it must then be `header`, if given.

    Yields:
      Rows with their places.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: it is not UTF-8, or a line is not as it should be.
    """
    numbered = [(n, line.split("\t")) for n, line in enumerate(read_lines(path), 1)]
    yield from _table(path, numbered, header, named=named)


def read_csv(path: Path, header: Sequence[str] | None = None) -> Iterator[Row]:
    """Reads a table of fields between commas, as RFC 4180 says; the first line names the columns.

    Args:
      path: the file.
      header: names that the columns must have; None takes any.

    Yields:
      Rows with their places: the line in which a row ends.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: it is not UTF-8, or a row is not as it should be.
    """
    lines = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    numbered = []
    try:
        for fields in lines:
            if fields:  # an empty line is no row
                numbered.append((lines.line_num, fields))
    except csv.Error as error:
        raise ValueError(f"{path}, line {lines.line_num}: {error}") from error
    yield from _table(path, numbered, header, named=True)


def _table(
    path: Path,
    numbered: Sequence[tuple[int, list[str]]],
    header: Sequence[str] | None,
    *,
    named: bool,
) -> Iterator[Row]:
    if named:
        found = numbered[0][1] if numbered else None
        if found is None or (header is not None and found != list(header)):
            shown = repr("\t".join(found)[:80]) if found else "an empty file"
            wanted = "names of columns" if header is None else f"the columns {tuple(header)}"
            raise ValueError(f"{path}, line 1: expected {wanted}, found {shown}")
        header, numbered = found, numbered[1:]
    if header is None:
        raise ValueError(f"{path} names no columns: give their names")
    for number, fields in numbered:
        place = f"{path}, line {number}"
        if len(fields) != len(header):
            yield (
                ValueError(
                    f"expected {len(header)} fields, found {len(fields)}: is the file cut short?"
                ),
                place,
            )
        else:
            yield dict(zip(header, fields, strict=True)), place
