"""An objective grades what its kind of training scores, whatever the batches."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import lora_jax as lora
from lora_jax import training
from lora_jax.data import Record, Task, pad
from lora_jax.training import classifier, language_model

FIXTURES = Path(__file__).parent.parent / "fixtures"
LENGTH = 6


def random_examples(rows):
    random = np.random.default_rng(0)
    ids = random.integers(5, 40, (rows, LENGTH)).astype(np.int32)
    mask = (np.arange(LENGTH) < random.integers(2, LENGTH + 1, (rows, 1))).astype(np.int32)
    return {"ids": ids * mask, "mask": mask, "type_ids": 0 * ids}


@pytest.fixture(scope="module")
def encoder():
    return lora.hub.load_model(FIXTURES / "bert")


@pytest.mark.parametrize("classes", [("bad", "so", "good"), ()])
def test_labels_are_graded_by_their_loss_and_their_metric(encoder, classes):
    labels = np.arange(7) % 3 if classes else np.linspace(0, 5, 7)
    records = tuple(Record("", label) for label in labels.tolist())
    metric = "f1_macro" if classes else "spearman"
    task = Task("some", "", classes, records, records, metric)
    kind = np.int32 if classes else np.float32
    examples = {**random_examples(7), "label": labels.astype(kind)}
    learns = training.labelling(encoder, task)
    variables = learns.init(None, jax.random.key(0))
    predictor = learns.predictor(None)
    found = learns.score(predictor, examples, 3, variables)
    assert found.keys() == {"loss", metric}
    assert found[metric] == classifier.score(predictor, task, examples, 7, variables)[metric]
    expected, _ = learns.loss(learns.outputs(None), variables, examples, jax.random.key(0))
    assert found["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert training.label(variables, learns.rules["head"])["head"]["kernel"] == "head"
    diverged = learns.grade(np.full((7, len(classes) or 1), np.nan), examples)
    assert np.isnan([*diverged.values()]).all()


def test_texts_are_graded_by_their_tokens_with_an_adapter_and_without():
    base = lora.hub.load_model(FIXTURES / "gpt2")
    sizes, random = (6, 3, 5, 4, 6), np.random.default_rng(0)
    rows = pad(
        [
            {"ids": random.integers(5, 40, n).astype(np.int32), "trained": np.ones(n, np.int32)}
            for n in sizes
        ],
        LENGTH,
    )
    learns = training.writing(base)
    lifted = lora.lift(
        base.apply,
        base.params,
        *learns.inputs(2, LENGTH),
        targets=("q_proj",),
        method=lora.LoRA(2),
    )
    variables = learns.init(lifted, jax.random.key(0))
    outputs = jax.jit(language_model.make_outputs(base, None))
    expected = language_model.score(outputs, rows, 2, {"params": base.params})
    for lift in (None, lifted):  # a new adapter changes nothing
        found = learns.score(learns.predictor(lift), rows, 2, variables)
        assert found == pytest.approx(expected, rel=1e-5)


def test_the_head_is_frozen_where_an_adapter_trains_and_leaves_it_alone():
    base = lora.hub.load_model(FIXTURES / "gpt2")
    lift = partial(
        lora.lift, base.apply, base.params, np.zeros((1, 4), np.int32), method=lora.LoRA(2)
    )
    frozen = partial(language_model.has_frozen_head, base)
    assert frozen(lift(targets=("q_proj",)))
    assert not frozen(lift(targets=("q_proj", "embed")))  # the head is tied to it
    assert not frozen(None)
