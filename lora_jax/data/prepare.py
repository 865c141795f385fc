"""Any text task as a data set of TFDS: prepared once as array_record, read lazily ever after.

One builder serves all tasks: what it prepares are records, whatever files they came from, with
their pictures inside. So sets that TFDS lacks have its layout, its cache and its random access.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lora_jax.data.lazy_records import LazyRecords
from lora_jax.data.prepared import import_tfds
from lora_jax.data.text_task import TextRecord, TextTask, Turn

VERSION = "1.0.0"
SPLITS = ("train", "validation", "test")


def prepare(
    task: TextTask, directory: str | Path, options: Mapping[str, Any] | None = None
) -> Path:
    """Writes the records of a task, unless they are there.

    Args:
      task: any.
      directory: what TFDS calls its data_dir.
      options: that the task was made with; other options have another place.

    Returns:
      The directory of the prepared version.

    Raises:
      FileNotFoundError: a picture is not there.
    """
    builder = _make_builder(task, Path(directory), _config_name(options))
    builder.download_and_prepare()
    return Path(builder.data_dir)


def find_prepared_task(
    name: str, directory: str | Path, options: Mapping[str, Any] | None = None
) -> Path | None:
    """Finds what `prepare` wrote for a task; None if it did not."""
    place = Path(directory) / f"lora_jax_{name}" / _config_name(options) / VERSION
    return place if (place / "dataset_info.json").is_file() else None


def read_prepared_task(directory: str | Path) -> TextTask:
    """Reads what `prepare` wrote, record by record as they are asked for.

    Args:
      directory: that `prepare` returned.

    Returns:
      The task; its pictures are bytes.
    """
    builder = import_tfds().builder_from_directory(str(directory))
    about = dict(builder.info.metadata)
    splits = {split: _read(builder, split) for split in SPLITS}
    return TextTask(
        *(about["name"], about["about"], splits["train"], splits["test"]),
        metrics=tuple(about["metrics"]),
        max_new_tokens=about["max_new_tokens"],
        validation=splits["validation"],
        skipped=tuple(about["skipped"]),
    )


def _config_name(options: Mapping[str, Any] | None) -> str:
    """Stands for the options, in whatever order they are given."""
    text = json.dumps(dict(options or {}), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12] if options else "default"


def _make_builder(task: TextTask, directory: Path, config: str) -> Any:
    import_tfds()  # says how to install them
    import tensorflow_datasets as tfds

    text = tfds.features.Text
    features = {
        "turns": tfds.features.Sequence({"role": text(), "text": text()}),
        "answer": text(),
        "references": tfds.features.Sequence(text()),
        "fields": text(),  # as JSON
        "images": tfds.features.Sequence(tfds.features.Scalar(np.object_)),
        "place": text(),
    }
    metadata = {
        "name": task.name,
        "about": task.about,
        "metrics": list(task.metrics),
        "max_new_tokens": task.max_new_tokens,
        "skipped": list(task.skipped),
    }

    class Records(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        """Records of a text task."""

        name = f"lora_jax_{task.name}"
        VERSION = tfds.core.Version(VERSION)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)]  # noqa: RUF012 (as tfds has it)

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description=task.about,
                features=tfds.features.FeaturesDict(features),
                metadata=tfds.core.MetadataDict(metadata),
                disable_shuffling=True,  # records stay in the order of their files
            )

        def _split_generators(self, _: Any) -> dict[str, Any]:
            records = {split: getattr(task, split) for split in SPLITS}
            return {split: self._generate_examples(some) for split, some in records.items() if some}

        def _generate_examples(
            self, records: Sequence[TextRecord]
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            for row in range(len(records)):
                yield row, _write(records[row])

    return Records(data_dir=str(directory), config=config, file_format="array_record")


def _write(record: TextRecord) -> dict[str, Any]:
    images = [i if isinstance(i, bytes) else i.read_bytes() for i in record.images]
    return {
        "turns": [turn._asdict() for turn in record.turns],
        "answer": record.answer,
        "references": list(record.references),
        "fields": json.dumps(dict(record.fields), ensure_ascii=False),
        "images": images,
        "place": record.place,
    }


def _read(builder: Any, split: str) -> Sequence[TextRecord]:
    if split not in builder.info.splits:
        return ()
    source = builder.as_data_source(split)
    return LazyRecords(len(source), lambda row: _record(source[row]))


def _record(element: Mapping[str, Any]) -> TextRecord:
    texts = lambda values: [bytes(value).decode() for value in values]
    turns = zip(texts(element["turns"]["role"]), texts(element["turns"]["text"]), strict=True)
    return TextRecord(
        tuple(Turn(role, text) for role, text in turns),
        element["answer"].decode(),
        tuple(texts(element["references"])),
        json.loads(element["fields"]),
        tuple(map(bytes, element["images"])),
        element["place"].decode(),
    )
