"""What TensorFlow Datasets prepared, read and written as array_record, without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lora_jax.data.readers import Row

_INFO = "dataset_info.json"


def import_tfds() -> Any:
    """Imports TensorFlow Datasets.

    Raises:
      ImportError: it is not installed.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            'a directory of TensorFlow Datasets needs them: pip install "lora_jax[data]"'
        ) from error
    return tfds


def find_prepared(directory: Path, name: str) -> Path | None:
    """Finds the newest version of a prepared data set.

    Args:
      directory: what TFDS calls its data_dir; or the directory of the data set itself, of one of
        its configs, or of one version.
      name: of the builder, with its config: "ai2_arc/ARC-Easy".

    Returns:
      The directory of the version, which holds its `dataset_info.json`; None if there is none.
    """
    if (directory / _INFO).is_file():
        return directory
    versions = [*directory.glob(f"{name}/*/{_INFO}"), *directory.glob(f"*/{_INFO}")]
    return max(versions, key=_version).parent if versions else None


def _version(info: Path) -> list[int]:
    return [int(part) for part in info.parent.name.split(".") if part.isdigit()]


def read_prepared(directory: Path, split: str) -> Iterator[Row]:
    """Reads a split that TFDS prepared as array_record.

    Args:
      directory: of one version.
      split: its name.

    Yields:
      Rows with their places: bytes of text as texts, labels as the names of their classes.

    Raises:
      FileNotFoundError: it has no such split.
      ValueError: it was prepared in another form than array_record.
    """
    builder = import_tfds().builder_from_directory(str(directory))
    form = builder.info.file_format.value
    if form != "array_record":
        raise ValueError(
            f"{directory} was prepared as {form}, which only TensorFlow reads; prepare it with "
            'tfds.builder(name, file_format="array_record").download_and_prepare()'
        )
    if split not in builder.info.splits:
        known = ", ".join(builder.info.splits) or "none"
        raise FileNotFoundError(f"{directory} has no split {split!r}; it has: {known}")
    for number, element in enumerate(builder.as_data_source(split), 1):
        yield _plain(builder.info.features, element), f"{directory}, {split} {number}"


def _plain(feature: Any, value: Any) -> Any:
    """A value of TFDS as the plain Python that JSON or Parquet would have held."""
    tfds = import_tfds()
    if isinstance(value, dict):
        inner = feature.feature if isinstance(feature, tfds.features.Sequence) else feature
        return {key: _plain(inner[key], one) for key, one in value.items()}
    if isinstance(feature, tfds.features.Sequence):
        feature = feature.feature
    if isinstance(value, list | tuple | np.ndarray) and np.ndim(value):
        return [_plain(feature, one) for one in value]
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(int(value)) if value >= 0 else None
    if isinstance(value, bytes) and isinstance(feature, tfds.features.Text):
        return value.decode("utf-8")
    return value.item() if isinstance(value, np.generic | np.ndarray) else value
