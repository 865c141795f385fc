"""Pooling and classification against formulas written by hand; heads of checkpoints."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.case import QUICK

from lora_jax import hub, models


def hidden_and_mask():
    hidden = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    return jnp.asarray(hidden), np.array(
        [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], np.int32
    )


def test_mean_pooling_averages_the_real_tokens():
    hidden, mask = hidden_and_mask()
    pooled = models.pool(hidden, mask, "mean")
    np.testing.assert_allclose(pooled[0], hidden[0].mean(0), rtol=1e-6)
    np.testing.assert_allclose(pooled[1], hidden[1, :2].mean(0), rtol=1e-6)
    assert not pooled[2].any()


def test_cls_pooling_takes_the_first_token():
    hidden, mask = hidden_and_mask()
    assert np.array_equal(models.pool(hidden, mask, "cls"), hidden[:, 0])


def test_pooling_sums_in_float32():
    # 1 + 2**-9 is not a bfloat16, so a bfloat16 mean of these would be 1 or 1 + 2**-7.
    hidden = jnp.array([[[1.0], [1.0], [1.0], [1 + 2**-7]]], jnp.bfloat16)
    pooled = models.pool(hidden, jnp.ones((1, 4), jnp.int32), "mean")
    assert pooled.dtype == jnp.float32
    assert float(pooled[0, 0]) == 1 + 2**-9


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="unknown pooling 'max'; known: mean, cls"):
        models.pool(*hidden_and_mask(), "max")


def test_normalized_vectors_have_length_one_and_zero_stays_zero():
    lengths = np.linalg.norm(models.normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]])), axis=1)
    np.testing.assert_allclose(lengths, [1, 0], rtol=1e-6)


@pytest.mark.parametrize("dense", [False, True])
def test_logits_are_an_affine_map_after_an_optional_tanh_layer(dense):
    head = models.init_classifier(jax.random.key(0), 4, 3, dense=dense)
    head["bias"] = jnp.array([0.1, 0.2, 0.3])
    x = jax.random.normal(jax.random.key(1), (5, 4))
    inner = np.asarray(x)
    if dense:
        inner = np.tanh(inner @ np.asarray(head["dense"]["kernel"]) + head["dense"]["bias"])
    wanted = inner @ np.asarray(head["kernel"]) + head["bias"]
    np.testing.assert_allclose(models.classify(head, x), wanted, rtol=1e-5, atol=1e-7)


def test_logits_of_bfloat16_states_are_float32():
    head = models.init_classifier(jax.random.key(0), 4, 3)
    assert models.classify(head, jnp.ones((2, 4), jnp.bfloat16)).dtype == jnp.float32


FIXTURES = Path(__file__).parent.parent / "fixtures"


def run(model, params, *inputs):
    return jax.jit(model.apply, compiler_options=QUICK)(params, *inputs)


def recorded(name):
    expected = np.load(FIXTURES / name / "expected.npz")
    inputs = [expected[k] for k in ("input_ids", "attention_mask", "token_type_ids")]
    return inputs, expected["expected"]


def beside(head):
    """A head of a checkpoint in the form of `init_classifier`."""
    return head["out_proj"] | {"dense": head["dense"]}


@pytest.mark.parametrize("name", ["bert_classification", "roberta_classification"])
def test_a_head_beside_the_model_gives_the_logits_of_the_head_within_it(name):
    inputs, wanted = recorded(name)
    head = hub.load_model(FIXTURES / name, head="classification").params["head"]
    model = hub.load_model(FIXTURES / name)
    assert "head" not in model.params
    pooled = models.pool(run(model, model.params, *inputs), inputs[1], "cls")
    np.testing.assert_allclose(models.classify(beside(head), pooled), wanted, rtol=1e-4, atol=1e-5)


def test_the_pooler_of_bert_is_read_on_request():
    name = FIXTURES / "bert_classification"
    pooler = hub.load_model(name, pooler=True).params["pooler"]
    head = hub.load_model(name, head="classification").params["head"]
    assert np.array_equal(pooler["kernel"], head["dense"]["kernel"])
    assert np.array_equal(models.project(pooler, jnp.ones((1, 16)))[0], project(head["dense"]))


def project(dense):
    return np.asarray(jnp.tanh(jnp.ones((1, 16)) @ dense["kernel"] + dense["bias"]))[0]


def test_a_pretrained_encoder_takes_a_fresh_head():
    base = hub.load_model(FIXTURES / "bert")
    config = dataclasses.replace(base.config, head="token_classification", classes=5)
    head = models.init_head(config, jax.random.key(0))
    inputs, _ = recorded("bert")
    logits = run(models.build(config), base.params | {"head": head}, *inputs)
    hidden = run(base, base.params, *inputs)
    assert logits.shape == (4, 7, 5)
    np.testing.assert_allclose(logits, hidden @ head["out_proj"]["kernel"], rtol=1e-4, atol=1e-5)


def test_logits_are_float32_whatever_the_activations_are():
    model = hub.load_model(FIXTURES / "bert_masked_lm", head="masked_lm", dtype="bfloat16")
    inputs, wanted = recorded("bert_masked_lm")
    logits = run(model, model.params, *inputs)
    assert logits.dtype == jnp.float32
    assert logits.shape == wanted.shape


def test_a_config_without_a_head_has_no_fresh_one():
    with pytest.raises(ValueError, match="the config has no head"):
        models.init_head(models.BertConfig(dim=8, heads=2), jax.random.key(0))


@pytest.mark.parametrize(
    ("name", "head", "message"),
    [
        ("bert", "classify", "unknown head 'classify'; known: classification"),
        ("roberta_masked_lm", "classification", r"no tensor 'classifier.* \(for head/"),
        ("bert_classification", "masked_lm", r"no tensor 'cls\.predictions.* \(for head/"),
        ("bert_classification", "regression", "one output, but there are 3 labels"),
    ],
)
def test_a_head_that_is_not_there_is_refused(name, head, message):
    with pytest.raises(ValueError, match=message):
        hub.load_model(FIXTURES / name, head=head)


@pytest.mark.parametrize("head", ["multiple_choice", "classification"])
def test_ids_of_the_wrong_number_of_axes_are_refused(head):
    name = f"bert_{head}"
    model = hub.load_model(FIXTURES / name, head=head)
    ids = np.ones((2, 3) if head == "multiple_choice" else (2, 3, 4), np.int32)
    shape = r"\[batch, choices, length\]" if head == "multiple_choice" else r"\[batch, length\]"
    with pytest.raises(ValueError, match=f"{head}.* takes {shape}"):
        model.apply(model.params, ids, ids)


def test_what_a_head_takes_in_is_dropped_out_while_there_is_a_key():
    head = {"kernel": jnp.eye(2000), "bias": jnp.zeros(2000)}
    x = jnp.ones((1, 2000))
    dropped = models.classify(head, x, dropout=0.25, key=jax.random.key(0))
    assert set(np.unique(np.asarray(dropped)).tolist()) == {0.0, float(np.float32(1 / 0.75))}
    assert 0.2 < float((dropped == 0).mean()) < 0.3
    np.testing.assert_array_equal(models.classify(head, x, dropout=0.25), x)
