"""The loss of a decoder: of the trained tokens alone, and the same packed as one by one."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.case import QUICK

import lora_jax as lora
from lora_jax.data import pack, pad
from lora_jax.training.language_model import init_variables, loss, make_outputs, next_tokens, score

FIXTURES = Path(__file__).parent.parent / "fixtures"
SIZES = (9, 5, 2, 7, 11, 3)
LENGTH = 13


def documents():
    """Texts whose first tokens are a question, which is not trained."""
    rng = np.random.default_rng(0)
    return [
        {
            "ids": rng.integers(5, 40, n).astype(np.int32),
            "trained": (np.arange(n) >= n // 2).astype(np.int32),
        }
        for n in SIZES
    ]


def adapted(name, dtype="float32"):
    """A decoder, its function with an adapter whose factors are not zero, and all variables."""
    base = lora.hub.load_model(FIXTURES / name, dtype=dtype)
    ids = np.zeros((1, LENGTH), np.int32)
    lifted = lora.lift(
        base.apply, base.params, ids, targets=("q_proj", "v_proj"), method=lora.LoRA(2)
    )
    variables = init_variables(base, lifted, jax.random.key(0))
    variables["adapter"] = jax.tree.map(lambda x: x + 0.1, variables["adapter"])
    return base, lifted, variables


def quick_loss(outputs, variables):
    """`batch -> (loss, metrics)`, compiled."""
    run = lambda batch: loss(outputs, variables, batch, jax.random.key(0))
    return jax.jit(run, compiler_options=QUICK)


def gradient_of(outputs, variables):
    """`batch -> (loss, metrics), gradient` with respect to the adapter, compiled."""

    @lambda f: jax.jit(f, compiler_options=QUICK)
    def run(batch):
        def of(adapter):
            return loss(outputs, {**variables, "adapter": adapter}, batch, jax.random.key(0))

        return jax.value_and_grad(of, has_aux=True)(variables["adapter"])

    return run


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "mistral"])
def test_a_packed_batch_has_the_loss_and_the_gradient_of_its_documents(name):
    base, lifted, variables = adapted(name)
    run = gradient_of(make_outputs(base, lifted, chunk=16), variables)
    packed, padded = pack(documents(), LENGTH), pad(documents(), LENGTH)
    assert len(packed["ids"]) < len(padded["ids"])
    (found, metrics), gradient = run(packed)
    (wanted, wanted_metrics), wanted_gradient = run(padded)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert metrics["weight"] == wanted_metrics["weight"] == sum(n - n // 2 for n in SIZES)
    assert metrics["token_accuracy"] == pytest.approx(wanted_metrics["token_accuracy"])
    for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted_gradient), strict=True):
        assert np.abs(y).max() > 1e-3
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-6)


def test_a_batch_cut_to_its_bucket_has_the_loss_and_the_gradient_of_its_whole_rows():
    base, lifted, variables = adapted("gpt2")
    run = gradient_of(make_outputs(base, lifted, chunk=16), variables)
    whole = pad([d for d in documents() if len(d["ids"]) < 8], LENGTH)
    (found, metrics), gradient = run({name: values[:, :8] for name, values in whole.items()})
    (wanted, wanted_metrics), wanted_gradient = run(whole)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert metrics["weight"] == wanted_metrics["weight"]
    for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted_gradient), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-6)


def test_the_loss_is_the_mean_over_trained_tokens_written_out():
    base, lifted, variables = adapted("gpt2")
    outputs = make_outputs(base, lifted, chunk=16)
    found, _ = quick_loss(outputs, variables)(pack(documents(), LENGTH))
    merge = jax.jit(lifted.merge, compiler_options=QUICK)
    rows = pad(documents(), LENGTH)
    run = jax.jit(base.apply, compiler_options=QUICK)
    all_logits = np.asarray(run(merge(base.params, variables["adapter"]), rows["ids"]), np.float64)
    losses = []
    for document, row in zip(documents(), all_logits, strict=True):
        logits = row[: len(document["ids"])]
        right = logits[np.arange(len(logits) - 1), document["ids"][1:]]
        lost = np.log(np.exp(logits[:-1]).sum(-1)) - right
        losses += lost[document["trained"][1:] == 1].tolist()
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("field", ["trained", "segments"])
@pytest.mark.parametrize("by", [-1, 1])
def test_a_mask_that_is_off_by_one_changes_the_loss(field, by):
    base, lifted, variables = adapted("gpt2")
    outputs = make_outputs(base, lifted)
    batch = pack(documents(), LENGTH)
    run = quick_loss(outputs, variables)
    right, _ = run(batch)
    wrong, _ = run({**batch, field: np.roll(batch[field], by, axis=1)})
    assert abs(wrong - right) > 2e-3 * right  # rounding makes less than 1e-6 of it


def test_a_token_is_predicted_from_what_comes_before_it_in_its_document():
    batch = {
        "ids": np.array([[1, 2, 3, 4, 5, 0]]),
        "trained": np.array([[1, 0, 1, 1, 1, 0]]),
        "segments": np.array([[1, 1, 1, 2, 2, 0]]),
    }
    targets, weight = next_tokens(batch)
    assert targets[0, :4].tolist() == [2, 3, 4, 5]
    assert weight.tolist() == [[0, 1, 0, 1, 0, 0]]  # 4 begins a document: nothing comes before it


def test_a_batch_without_trained_tokens_has_no_loss_and_no_gradient():
    base, lifted, variables = adapted("gpt2")
    batch = pack(documents(), LENGTH)
    batch["trained"] = np.zeros_like(batch["trained"])
    (found, metrics), gradient = gradient_of(make_outputs(base, lifted), variables)(batch)
    assert found == metrics["weight"] == 0
    assert not any(x.any() for x in jax.tree.leaves(gradient))


def test_without_an_adapter_the_base_is_scored():
    base = lora.hub.load_model(FIXTURES / "gpt2")
    variables = init_variables(base, None, jax.random.key(0))
    assert set(variables) == {"params"}
    batch = pack(documents(), LENGTH)
    outputs = jax.jit(make_outputs(base, None), compiler_options=QUICK)
    found, _ = loss(outputs, variables, batch, jax.random.key(0))
    assert found > np.log(40) / 2
    assert score(outputs, batch, 2, variables)["loss"] == pytest.approx(float(found), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 5])
def test_the_score_counts_every_trained_token_once_whatever_the_batch(batch_size):
    base, lifted, variables = adapted("gpt2")
    outputs = jax.jit(make_outputs(base, lifted), compiler_options=QUICK)
    examples = pad(documents(), LENGTH)
    found = score(outputs, examples, batch_size, variables)
    wanted, metrics = loss(outputs, variables, examples, jax.random.key(0))
    assert found["loss"] == pytest.approx(float(wanted), rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(wanted), rel=1e-5)
    assert found["token_accuracy"] == pytest.approx(float(metrics["token_accuracy"]))
    examples["trained"] = 0 * examples["trained"]
    with pytest.raises(ValueError, match="nothing to score"):
        score(outputs, examples, batch_size, variables)


def test_dropout_follows_the_key():
    base, _, _ = adapted("gpt2")
    ids = np.zeros((1, LENGTH), np.int32)
    method = lora.LoRA(2, dropout=0.5)
    lifted = lora.lift(base.apply, base.params, ids, targets=("q_proj",), method=method)
    variables = init_variables(base, lifted, jax.random.key(0))
    variables["adapter"] = jax.tree.map(lambda x: x + 0.3, variables["adapter"])
    outputs = jax.jit(make_outputs(base, lifted), compiler_options=QUICK)
    batch = pack(documents(), LENGTH)
    losses = [float(loss(outputs, variables, batch, jax.random.key(k))[0]) for k in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_float64_is_kept():
    with jax.enable_x64(True):
        base, lifted, variables = adapted("gpt2", dtype="float64")
        batch = pack(documents(), LENGTH)
        found = jax.eval_shape(make_outputs(base, lifted), variables, batch)
        assert found.loss.dtype == jnp.float64


@pytest.mark.parametrize(
    ("name", "target", "site"),
    [("gpt2", "embed", "embed/embedding"), ("llama", "lm_head", "lm_head/kernel")],
)
def test_a_head_that_is_adapted_is_not_frozen(name, target, site):
    base = lora.hub.load_model(FIXTURES / name)
    ids = np.zeros((1, LENGTH), np.int32)
    method = lora.LoRA(2)
    lift = lambda *targets: lora.lift(base.apply, base.params, ids, targets=targets, method=method)
    with pytest.raises(ValueError, match=f"but {site} is adapted"):
        make_outputs(base, lift("q_proj", target), frozen_head=True)
    make_outputs(base, lift("q_proj"), frozen_head=True)
    make_outputs(base, lift("q_proj", target))


def test_a_table_that_is_no_head_may_be_adapted_beside_a_frozen_head():
    base, lifted, variables = adapted("llama")
    ids = np.zeros((1, LENGTH), np.int32)
    lifted = lora.lift(base.apply, base.params, ids, targets=("embed",), method=lora.LoRA(2))
    variables = init_variables(base, lifted, jax.random.key(0))
    variables["adapter"] = jax.tree.map(lambda x: x + 0.1, variables["adapter"])
    batch = pack(documents(), LENGTH)
    gradients = [
        gradient_of(make_outputs(base, lifted, frozen_head=frozen), variables)(batch)[1]
        for frozen in (True, False)
    ]
    for x, y in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
