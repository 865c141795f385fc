"""Training from scratch: the files that come out hold the model that was trained."""

import json
import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import pretrain, rank
from experiments.subject import load
from lora_jax import hub
from lora_jax.data.streams import cut_stream
from lora_jax.hub.new_tokenizer import END, train_tokenizer


def tiny(**fields):
    config = pretrain.defaults()
    with config.unlocked():
        config.task = ConfigDict({"name": "stdlib_prose", "options": {"characters": 1000}})
    config.model.update({"dim": 16, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 8})
    config.model.ff_dim = 24
    config.update({"vocab_size": 300, "length": 32, "steps": 8, "batch_size": 8})
    config.update({"evaluation_rows": 16, "evaluation_batch_size": 8, "evaluate_every": 0})
    config.update(fields)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pretrain") / "run"
    pretrain.main(tiny(), workdir)
    return workdir


def test_the_saved_model_loads_with_the_loss_and_hash_that_were_printed(finished):
    found = json.loads((finished / "results.json").read_text())
    model = hub.load_model(finished / "model", sha256=found["file_sha256"])
    assert hub.hash_params(model.params) == found["params_sha256"]
    assert model.tokenizer.eos_id == 0
    text = "for x in range(10):\n\tprint('é', x)"
    (ids,) = model.tokenizer.encode_ragged([text])
    assert model.tokenizer.decode(ids) == text
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert found["loss"] == pytest.approx(rows[-1]["eval/loss"], rel=1e-5)
    assert found["loss"] < math.log(300)
    assert rows[7]["loss"] < rows[0]["loss"]
    assert found["tokens_seen"] == 8 * 8 * 32
    tokens = found["bits_per_character"] * math.log(2) / found["loss"]
    assert 0.3 < tokens < 1.0  # a token of this vocabulary is one to three characters


def test_studies_take_it_as_their_base_or_new_weights_in_its_place(finished):
    config = rank.defaults()
    config.task.name = "stdlib_prose"
    with config.unlocked():
        config.task.options.characters = 40
    config.model.path = str(finished / "model")
    config.update(length=64, batch_size=4, evaluation_batch_size=4)
    config.examples.update(train=8, validation=4, test=4, own=3)
    losses = {}
    for fresh in (False, True):
        config.model.fresh = fresh
        about = load(config)
        learns, variables = about.objective, {"params": about.base.params}
        found = learns.score(learns.predictor(None), about.test, 4, variables)
        losses[fresh] = found["loss"]
        assert (
            about.own.examples["ids"][:, 0] == 0
        ).all()  # no token begins texts: the end of one does
    assert losses[False] < losses[True]


def test_another_run_in_the_same_workdir_is_refused(finished):
    with pytest.raises(ValueError, match="steps: found 8, asked for 9"):
        pretrain.main(tiny(steps=9), finished)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"length": 1024}, "reads at most 512 tokens"),
        ({"vocab_size": 256}, "a vocabulary of 256"),
        ({"evaluation_rows": 0}, "evaluation_rows = 0"),
    ],
)
def test_a_mistake_is_found_before_training(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        pretrain.main(tiny(**fields), None)


def test_a_stream_holds_every_token_in_order_and_no_padding():
    documents = [np.arange(start, start + size) for start, size in ((10, 5), (20, 1), (30, 4))]
    rows = cut_stream(documents, 4, end_id=0)
    expected = [10, 11, 12, 13, 14, 0, 20, 0, 30, 31, 32, 33]
    assert rows["ids"].ravel().tolist() == expected  # the last end does not fill a row
    assert (rows["trained"] == 1).all()
    assert (rows["segments"] == 1).all()
    with pytest.raises(ValueError, match="do not fill one row of 40"):
        cut_stream(documents, 40, end_id=0)
    with pytest.raises(ValueError, match="at least 2"):
        cut_stream(documents, 1, end_id=0)


def test_the_same_texts_give_the_same_tokenizer(tmp_path):
    texts = ["the cat sat on the mat. " * 20, "the dog sat on the log. " * 20]
    one, other = (train_tokenizer(tmp_path / name, texts, 270) for name in ("one", "other"))
    assert one.file.read_bytes() == other.file.read_bytes()
    assert one.vocab_size == 270
    (ids,) = one.encode_ragged(["the mat"])
    assert len(ids) < len("the mat")  # merges were learnt
    assert one.control_tokens == {END: 0}
