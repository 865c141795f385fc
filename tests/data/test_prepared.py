"""Data sets that TFDS prepared as array_record: read and written without TensorFlow."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.text import Gsm8k

from lora_jax.data.prepared import find_prepared, read_prepared
from lora_jax.data.tasks.gsm8k import gsm8k


def build(builder_class, directory, splits, **options):
    """Prepares a data set of records made here, with the features of a builder."""

    class Made(builder_class, skip_registration=True):
        name = builder_class.name

        def _split_generators(self, _):
            return {split: enumerate(rows) for split, rows in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    builder = Made(data_dir=directory, file_format="array_record", **options)
    builder.download_and_prepare()
    return builder


class Shapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Features of every sort that the builders of our tasks use."""

    VERSION = tfds.core.Version("1.0.0")
    name = "shapes"

    def _info(self):
        labels = tfds.features.ClassLabel(names=["A", "B"])
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "text": tfds.features.Text(),
                    "yes": np.bool_,
                    "number": np.int32,
                    "key": labels,
                    "choices": tfds.features.Sequence(
                        {"text": tfds.features.Text(), "label": labels}
                    ),
                }
            ),
        )

    def _split_generators(self, _):
        raise NotImplementedError

    def _generate_examples(self):
        raise NotImplementedError


ROW = {
    "text": "naïve",
    "yes": True,
    "number": 3,
    "key": "B",
    "choices": {"text": ["one", "two"], "label": ["A", "B"]},
}


def test_rows_come_back_as_plain_python(tmp_path):
    build(Shapes, tmp_path, {"train": [ROW]})
    ((fields, place),) = read_prepared(find_prepared(tmp_path, "shapes"), "train")
    assert json.loads(json.dumps(fields)) == ROW
    assert place.endswith("shapes/1.0.0, train 1")


def test_it_is_found_from_every_directory_above_it(tmp_path):
    build(Shapes, tmp_path, {"train": [ROW]})
    made = tmp_path / "shapes" / "1.0.0"
    assert {find_prepared(place, "shapes") for place in (tmp_path, made.parent, made)} == {made}
    assert find_prepared(tmp_path, "other") is None


def test_the_native_gsm8k_is_read_as_the_original_file_is(tmp_path):
    rows = [
        {"question": f"{i} + 1?", "answer": f"Add.\n#### {i + 1}", "annotation": "Add.\n"}
        | {"short_answer": str(i + 1)}
        for i in range(3)
    ]
    build(Gsm8k, tmp_path, {"train": rows, "test": rows[:1]})
    task = gsm8k(tmp_path)
    assert (len(task.train), len(task.test)) == (3, 1)
    assert {record.answer for record in task.train} == {row["answer"] for row in rows}
    assert task.test[0].fields == {"final": "1"}


def test_a_missing_split_is_refused_with_those_there_are(tmp_path):
    build(Shapes, tmp_path, {"train": [ROW]})
    with pytest.raises(FileNotFoundError, match="has no split 'test'; it has: train"):
        list(read_prepared(find_prepared(tmp_path, "shapes"), "test"))


def test_tensorflow_is_never_imported(tmp_path):
    build(Shapes, tmp_path, {"train": [ROW]})
    code = (
        "import sys; from pathlib import Path; from lora_jax.data.prepared import read_prepared;"
        f"rows = list(read_prepared(Path({str(tmp_path / 'shapes' / '1.0.0')!r}), 'train'));"
        "assert len(rows) == 1; assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
