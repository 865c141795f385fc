"""Parquet, the form in which the Hugging Face hub keeps most sets. It needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lora_jax.data.readers.row import Row


def read_parquet(path: Path) -> Iterator[Row]:
    """Reads a file of Parquet a few rows at a time.

    Yields:
      Rows with their places; nested columns are dicts and lists.

    Raises:
      FileNotFoundError: it is not there.
      ImportError: pyarrow is not installed.
      ValueError: it is no Parquet.
    """
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(
            f'{path} is Parquet, which pyarrow reads: pip install "lora_jax[data]"'
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for fields in batch.to_pylist():
                    number += 1
                    yield fields, f"{path}, row {number}"
    except pa.ArrowException as error:
        raise ValueError(f"{path} is no Parquet, or damaged: {error}") from error
