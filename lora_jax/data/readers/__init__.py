"""Files of records, one reader a format, each row with the place where it stands."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lora_jax.data.readers.delimited import read_csv, read_tsv
from lora_jax.data.readers.json_files import read_json, read_json_lines, read_json_rows
from lora_jax.data.readers.parquet import read_parquet
from lora_jax.data.readers.row import Fields, Row, text
from lora_jax.data.readers.text import read_lines, read_text

__all__ = [
    "READERS",
    "Fields",
    "Row",
    "read_csv",
    "read_json",
    "read_json_lines",
    "read_json_rows",
    "read_lines",
    "read_parquet",
    "read_rows",
    "read_text",
    "read_tsv",
    "text",
]

READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": read_csv,
    ".json": read_json_rows,
    ".jsonl": read_json_lines,
    ".parquet": read_parquet,
    ".tsv": read_tsv,
}
"""The reader of each ending of a file's name."""


def read_rows(path: Path) -> Iterator[Row]:
    """Reads a file as the ending of its name says.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: an unknown ending, or a file that is not what its name says.
    """
    if path.suffix not in READERS:
        raise ValueError(f"{path}: unknown form {path.suffix!r}; known: {', '.join(READERS)}")
    return READERS[path.suffix](path)
