"""What a run on texts reads: rows of about one length, and records that wait for their turn."""

import itertools
import json

import numpy as np
import pytest

from configs import stories260k
from experiments import finetune_text, text_data
from lora_jax import hub
from lora_jax.data.lazy_records import LazyRecords

pytestmark = pytest.mark.needs_data

STORY = "once upon a time there was a little dog that loved to play in the big park"
WORDS = STORY.split()


@pytest.fixture
def config(data_dir, monkeypatch, tmp_path):
    """Forty questions of 1 to 16 words; one of sixty does not fit."""
    monkeypatch.setenv("LORA_JAX_DATA", str(data_dir))
    sizes = np.random.default_rng(0).integers(1, 17, 40).tolist()
    sizes[7] = 60
    rows = [{"prompt": " ".join((WORDS * 4)[:n]), "answer": WORDS[n % 16]} for n in sizes]
    for name, some in (("train", rows), ("test", rows[:4])):
        text = "".join(json.dumps(row) + "\n" for row in some)
        (tmp_path / f"{name}.jsonl").write_text(text)
    config = finetune_text.defaults()
    config.task.name = "sft"
    for name in ("train", "test"):
        with config.task.options.unlocked():
            config.task.options[name] = str(tmp_path / f"{name}.jsonl")
    config.model.path = stories260k.find()
    config.encoding.update(length=48, bad_rows="skip")
    config.packing = False
    config.buckets = (12, 20)
    config.batch_size = config.evaluation_batch_size = 8
    return config


def batches(config, base, rows, count=12):
    texts = text_data.read(config, base)
    found = text_data.training_set(config, texts, rows)
    return list(itertools.islice(found.batches, count)), found


def test_streamed_batches_are_those_of_a_set_in_memory(config, tmp_path, monkeypatch):
    base = hub.load_model(config.model.path)
    expected, whole = batches(config, base, range(8))
    assert len({batch["ids"].shape for batch in expected}) == 3
    config.update(stream=True, cache=str(tmp_path / "cache"))
    text_data.prepare(config)
    for file in tmp_path.glob("*.jsonl"):
        file.unlink()  # all is read from the cache
    found, streamed = batches(config, base, [1, 3])
    for ours, theirs in zip(found, expected, strict=True):
        for name, values in theirs.items():
            np.testing.assert_array_equal(ours[name], values[[1, 3]], err_msg=name)
    assert streamed.tokens == whole.tokens
    assert len(streamed.skipped) == len(whole.skipped) == 1

    # Of several processes each encodes its part, and reads what its rows need.
    monkeypatch.setattr(text_data.jax, "process_count", lambda: 2)
    monkeypatch.setattr(text_data.jax, "process_index", lambda: 1)
    texts = text_data.read(config, base)
    assert len(texts.train.sizes) == 20
    read = []
    records = texts.task.train
    noted = LazyRecords(len(records), lambda row: read.append(row) or records[row])
    texts = texts._replace(task=texts.task._replace(train=noted))
    sizes = np.full(40, 9, np.int32)
    sizes[7] = 0
    monkeypatch.setattr(text_data, "gather_parts", lambda mine, count: sizes)
    config.update(buckets=())
    stream = text_data.training_set(config, texts, [1, 3])
    read.clear()  # of what the checks of types looked at
    next(stream.batches)
    assert len(read) == 2
    said = text_data.describe(config, texts, stream)
    assert "streamed; of its 40 records, 40 are described here:" in said
    assert "batches by the tokens of their rows: 4 of 48" in said


def test_a_streamed_run_trains_with_a_step_for_each_length(config, tmp_path):
    config.update(stream=True, buckets=(20,), steps=6, train_examples=20)
    with config.task.options.unlocked():
        config.task.options.metrics = ()
    config.model.scan = True
    config.optimizer.learning_rate = 5e-3
    finetune_text.main(config, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 6
    assert rows[-1]["eval/loss"] < losses[0]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["end"]["loss"] < results["start"]["loss"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"packing": True}, "buckets and stream are for rows of one example each"),
        ({"cache": "somewhere"}, "set stream=True, too"),
        ({"buckets": (64,)}, r"buckets of \[64\] tokens: they have from 1 to 48"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_anything_is_read(
    config, settings, message
):
    config.update(settings)
    config.model.path = "nowhere"
    with pytest.raises(ValueError, match=message):
        finetune_text.main(config, None)
