"""The function that is trained, its loss and its score, against formulas written out in numpy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora
from lora_jax.data import Record, Task
from lora_jax.hub import Pretrained
from lora_jax.training.classifier import init_variables, loss, make_outputs, score

DIM, TOKENS = 6, 11


class Config(NamedTuple):
    dim: int = DIM


def encode(params, ids, mask, type_ids):
    """As small as an encoder can be: an embedding, and a matrix."""
    return params["table"][ids] @ params["proj"]


@pytest.fixture
def base():
    random = np.random.default_rng(0)
    params = {"table": random.normal(size=(TOKENS, DIM)), "proj": random.normal(size=(DIM, DIM))}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    return Pretrained(encode, params, Config(), tokenizer=None, directory=None)


@pytest.fixture
def batch():
    random = np.random.default_rng(1)
    ids = random.integers(TOKENS, size=(5, 4)).astype(np.int32)
    mask = np.array(
        [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], np.int32
    )
    return {
        "ids": ids,
        "mask": mask,
        "type_ids": 0 * ids,
        "label": np.arange(5, dtype=np.int32) % 3,
    }


def expected_outputs(base, variables, batch, proj):
    hidden = np.asarray(base.params["table"])[batch["ids"]] @ np.asarray(proj)
    mask = batch["mask"][..., None]
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    head = jax.tree.map(np.asarray, variables["head"])
    return pooled @ head["kernel"] + head["bias"]


def test_outputs_are_a_linear_head_on_the_mean_of_real_tokens(base, batch):
    variables = init_variables(base, None, 3, jax.random.key(0))
    assert set(variables) == {"params", "head"}
    found = make_outputs(base, None, "mean")(variables, batch)
    expected = expected_outputs(base, variables, batch, base.params["proj"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_an_adapter_changes_the_weights_that_it_adapts(base, batch):
    inputs = [batch[name] for name in ("ids", "mask", "type_ids")]
    lifted = lora.lift(
        base.apply, base.params, *inputs, method=lora.LoRA(rank=2), targets=("proj",)
    )
    variables = init_variables(base, lifted, 3, jax.random.key(0))
    factors = variables["adapter"]["proj"]
    factors["b"] = factors["b"] + 0.5
    merged = lifted.merge(base.params, variables["adapter"])["proj"]
    assert not np.allclose(merged, base.params["proj"])
    found = make_outputs(base, lifted, "mean")(variables, batch)
    expected = expected_outputs(base, variables, batch, merged)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_loss_of_classes_is_the_mean_cross_entropy(batch):
    outputs = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
    found, _ = loss(lambda *_, **__: jnp.asarray(outputs), {}, batch, jax.random.key(0))
    probabilities = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    expected = -np.log(probabilities[np.arange(5), batch["label"]]).mean()
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_scores_is_the_mean_squared_error(batch):
    outputs = np.array([[0.0], [1.0], [2.0], [3.0], [5.0]], np.float32)
    scores = {**batch, "label": np.array([0, 1, 2, 3, 1], np.float32)}
    found, _ = loss(lambda *_, **__: jnp.asarray(outputs), {}, scores, jax.random.key(0))
    assert found == pytest.approx(16 / 5)


def test_the_score_counts_every_example_once_whatever_the_batch(batch):
    right = np.eye(3, dtype=np.float32)[batch["label"]]
    wrong_last = np.roll(right, 1, axis=1)
    task = Task("toy", "", ("a", "b", "c"), (Record("", 0),), (Record("", 0),), "accuracy")

    def outputs(_, part):  # right for all but the first token sequence
        first = (part["ids"] == batch["ids"][0]).all(axis=1)
        rows = [int(np.flatnonzero((batch["ids"] == ids).all(1))[0]) for ids in part["ids"]]
        return np.where(first[:, None], wrong_last[rows], right[rows])

    for batch_size in (1, 2, 5, 7):
        assert score(outputs, task, batch, batch_size, {}) == {"accuracy": 4 / 5}
