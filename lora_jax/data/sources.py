"""Where the files of a data set are: a directory, what TFDS prepared, or the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lora_jax.data.prepared import find_prepared, read_prepared
from lora_jax.data.readers import Row, read_rows
from lora_jax.data.source_files import match
from lora_jax.hub.files import find_dataset

DATA, TFDS = "LORA_JAX_DATA", "TFDS_DATA_DIR"

Reader = Callable[[Path], Iterator[Row]]


class Source(NamedTuple):
    """The published files of a data set.

    Attributes:
      folder: the directory that holds them below `LORA_JAX_DATA`.
      files: split -> names or patterns of its files; those of the first that matches are read, in
        the order of their names. The original files come first, those of the hub after them.
      origin: in words, who publishes them and where.
      hub: the repository of data sets on the Hugging Face hub that has them, if any.
      tfds: the builder of TensorFlow Datasets whose rows are the same, with its config, if any.
      tfds_splits: split -> its name there, where that differs.
    """

    folder: str
    files: Mapping[str, tuple[str, ...]]
    origin: str
    hub: str = ""
    tfds: str = ""
    tfds_splits: Mapping[str, str] = {}


def read_split(
    source: Source,
    split: str,
    directory: str | Path | None = None,
    read: Reader = read_rows,
) -> Iterator[Row]:
    """Reads the rows of one split from the first place that has it.

    Args:
      source: says what to look for.
      split: a key of `source.files`.
      directory: the only place to look in: it holds the files, or what TFDS prepared. By default
        the places are `LORA_JAX_DATA` (in `source.folder`), `TFDS_DATA_DIR`, and the hub.
      read: reads one file; Parquet is read by its own reader whatever it says.

    Returns:
      An iterator over the rows.

    Raises:
      FileNotFoundError: no place has it; they are named, and where to get it is.
    """
    looked = []
    for place in _places(source, directory):
        if files := match(place, source.files[split]):
            return _read_all(files, read)
        if source.tfds and (made := find_prepared(place, source.tfds)):
            return read_prepared(made, source.tfds_splits.get(split, split))
        looked.append(f"{place}{'' if place.is_dir() else ' (no directory)'}")
    if source.hub and directory is None:
        try:
            files = match(find_dataset(source.hub, source.files), source.files[split])
        except FileNotFoundError as error:
            looked.append(f"the hub's {source.hub} ({error})")
        else:
            if files:
                return _read_all(files, read)
            looked.append(f"the hub's {source.hub}, which has no such file")
    raise FileNotFoundError(_missing(source, split, looked, named=directory is not None))


def _places(source: Source, directory: str | Path | None) -> Iterator[Path]:
    if directory is not None:
        yield Path(directory).expanduser()
        return
    if data := os.environ.get(DATA):
        yield Path(data).expanduser() / source.folder
    if prepared := os.environ.get(TFDS):
        yield Path(prepared).expanduser()


def _read_all(files: list[Path], read: Reader) -> Iterator[Row]:
    for file in files:
        yield from (read_rows if file.suffix == ".parquet" else read)(file)


def _missing(source: Source, split: str, looked: list[str], *, named: bool) -> str:
    wanted = " or ".join(source.files[split])
    where = f"looked in {'; '.join(looked)}" if looked else f"{DATA} is not set, so nowhere to look"
    put = (
        "put it there"
        if named
        else f"put it into {source.folder}/ below a directory, and set {DATA} to that directory"
    )
    return f"no {wanted}: {where}. It comes from {source.origin}; {put}"
