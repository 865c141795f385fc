"""Cross-entropy in chunks is the cross-entropy of all logits, which never exist at once."""

import functools
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden.case import QUICK

import lora_jax as lora
from lora_jax import models
from lora_jax.training.cross_entropy import cross_entropy

FIXTURES = Path(__file__).parent.parent / "fixtures"
BATCH, LENGTH = 3, 10


def texts():
    ids, targets = np.random.default_rng(0).integers(5, 40, (2, BATCH, LENGTH)).astype(np.int32)
    return ids, targets


def of_all_logits(logits, targets):
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


# One row; one chunk; chunks that divide the length and that do not; fewer tokens than rows.
@pytest.mark.parametrize(
    ("batch", "length", "chunk"), [(1, 9, 4), (3, 5, 99), (2, 8, 8), (2, 7, 6), (4, 3, 1)]
)
def test_any_chunk_gives_the_loss_of_each_token_and_its_gradient(batch, length, chunk):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(batch, length, 4)).astype(np.float32)
    table = rng.normal(size=(4, 11)).astype(np.float32)
    targets = rng.integers(0, 11, (batch, length)).astype(np.int32)
    weight = np.arange(batch * length).reshape(batch, length) % 3 + np.float32(0.5)

    def in_chunks(hidden, table):
        found = cross_entropy(targets, chunk)(hidden, lambda h: h @ table)
        return (found.loss * weight).sum(), found

    def whole(hidden, table):
        return (of_all_logits(hidden @ table, targets) * weight).sum()

    def both(hidden, table):
        found = jax.value_and_grad(in_chunks, (0, 1), has_aux=True)(hidden, table)
        logits = hidden @ table
        losses = of_all_logits(logits, targets), logits.argmax(-1) == targets
        return found, jax.grad(whole, (0, 1))(hidden, table), losses

    found, gradient_wanted, wanted = jax.jit(both, compiler_options=QUICK)(hidden, table)
    (value, found), gradient = found
    np.testing.assert_allclose(value, (wanted[0] * weight).sum(), rtol=1e-5)
    np.testing.assert_allclose(found.loss, wanted[0], rtol=1e-4)
    np.testing.assert_array_equal(found.right, wanted[1])
    for x, y in zip(gradient, gradient_wanted, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_smoothed_labels_give_the_loss_of_optax_and_its_gradient(frozen):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(2, 5, 4)).astype(np.float32)
    table = rng.normal(size=(4, 11)).astype(np.float32)
    targets = rng.integers(0, 11, (2, 5)).astype(np.int32)

    def in_chunks(hidden):
        asked = cross_entropy(targets, 4, frozen_head=frozen, smoothing=0.1)
        found = asked(hidden, lambda h: h @ table)
        return found.loss.sum(), found

    def whole(hidden):
        smooth = optax.smooth_labels(jax.nn.one_hot(targets, 11), 0.1)
        losses = optax.softmax_cross_entropy(hidden @ table, smooth)
        return losses.sum(), losses

    (_, found), gradient = jax.jit(jax.value_and_grad(in_chunks, has_aux=True))(hidden)
    (_, losses), wanted = jax.jit(jax.value_and_grad(whole, has_aux=True))(hidden)
    np.testing.assert_allclose(found.loss, losses, rtol=1e-5)
    np.testing.assert_array_equal(found.right, (hidden @ table).argmax(-1) == targets)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"label smoothing of 1.0: a share lies in \[0, 1\)"):
        cross_entropy(np.zeros((1, 2), np.int32), smoothing=1.0)


# The head: the table of tokens, adapted or quantised, capped (Gemma 2); or a matrix of its own.
HEADS = {
    "tied": ("gpt2", {"embed": lora.LoRA(2)}, None),
    "tied, capped": ("gemma2", {"embed": lora.LoRA(2), "q_proj": lora.LoRA(2)}, None),
    "tied, int8": ("gpt2", {"embed": lora.LoRA(2)}, "int8"),
    "DoRA": ("llama", {"lm_head": lora.DoRA(2), "v_proj": lora.DoRA(2)}, None),
    "whole": ("llama", {"lm_head": lora.Full()}, None),
    "nf4": ("llama", {"lm_head": lora.LoRA(2)}, "nf4"),
}


@pytest.mark.parametrize("head", HEADS)
def test_the_head_may_be_tied_adapted_quantised_or_capped(head):
    name, targets, kind = HEADS[head]
    model = lora.hub.load_model(FIXTURES / name)
    params = model.params if kind is None else lora.quantize(model.params, kind, block=8)
    ids, targets_of = texts()
    lifted = lora.lift(model.apply, params, ids, targets=targets, strict=True)
    factors = lifted.init(jax.random.key(0), params)
    noise = np.random.default_rng(1)
    factors = jax.tree.map(lambda x: x + 0.1 * noise.normal(size=x.shape).astype(x.dtype), factors)

    def in_chunks(factors):
        losses = lifted(params, factors, ids, outputs=cross_entropy(targets_of, 7)).loss
        return losses.mean(), losses

    def whole(factors):
        losses = of_all_logits(lifted(params, factors, ids), targets_of)
        return losses.mean(), losses

    def both(factors):
        return [jax.value_and_grad(f, has_aux=True)(factors) for f in (in_chunks, whole)]

    found, wanted = jax.jit(both, compiler_options=QUICK)(factors)
    np.testing.assert_allclose(found[0][1], wanted[0][1], rtol=2e-5, atol=1e-6)
    assert any(np.abs(x).max() > 1e-4 for x in jax.tree.leaves(wanted[1]))
    for x, y in zip(jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_frozen_head_is_not_applied_again_for_the_same_gradient(dtype):
    model = lora.hub.load_model(FIXTURES / "gemma2", dtype=dtype)
    ids, targets = texts()
    lifted = lora.lift(model.apply, model.params, ids, targets=("v_proj",), strict=True)
    factors = lifted.init(jax.random.key(0), model.params)
    factors = jax.tree.map(lambda x: x + 0.1, factors)

    def gradient(frozen_head):
        def loss(factors, params):
            outputs = cross_entropy(targets, 7, frozen_head=frozen_head)
            found = lifted(params, factors, ids, outputs=outputs)
            return found.loss.mean(), found

        return jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)

    def heads(function):
        lowered = function.lower(factors, model.params).as_text()
        return len(re.findall(r"dot_general.*tensor<[\dx]*x40x", lowered))

    once, again = gradient(True), gradient(False)
    assert heads(once) == heads(again) - 1 == 2
    (found, losses), (wanted, wanted_losses) = (f(factors, model.params) for f in (once, again))
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(losses.loss, wanted_losses.loss, rtol=1e-5)
    assert np.array_equal(losses.right, wanted_losses.right)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.linalg.norm(x - y) < tolerance * np.linalg.norm(y)


def sizes_with_the_vocabulary(text, vocabulary):
    """Entries of every array in a compiled program that has the vocabulary as an axis."""
    shapes = re.findall(r"\b\w+\[([\d,]+)\]", text)
    shapes = [[int(n) for n in shape.split(",")] for shape in shapes]
    return {math.prod(shape) for shape in shapes if vocabulary in shape}


def test_no_array_of_the_compiled_gradient_holds_all_logits():
    vocabulary, dim, batch, length, chunk = 131, 8, 4, 96, 48
    config = models.GPT2Config(
        vocab_size=vocabulary, dim=dim, layers=2, heads=2, ff_dim=16, positions=length
    )
    model = models.build(config)
    ids = jnp.zeros((batch, length), jnp.int32)
    lifted = lora.lift(model.apply, model.shapes, ids, targets=("q_proj", "embed"), strict=True)
    factors = jax.eval_shape(lifted.init, jax.random.key(0), model.shapes)

    def in_chunks(factors, params, frozen_head=False):
        losses = cross_entropy(ids, chunk, frozen_head=frozen_head)
        return lifted(params, factors, ids, outputs=losses).loss.mean()

    def whole(factors, params):
        return of_all_logits(lifted(params, factors, ids), ids).mean()

    def largest(loss):
        compiled = jax.jit(jax.grad(loss)).lower(factors, model.shapes).compile(QUICK)
        return max(sizes_with_the_vocabulary(compiled.as_text(), vocabulary))

    assert largest(in_chunks) <= chunk * vocabulary
    assert largest(functools.partial(in_chunks, frozen_head=True)) <= chunk * vocabulary
    assert largest(whole) == batch * length * vocabulary


def test_a_batch_over_devices_stays_there():
    mesh = jax.make_mesh((8,), ("data",))
    split = jax.NamedSharding(mesh, jax.P("data"))
    whole = jax.NamedSharding(mesh, jax.P())

    @functools.partial(jax.jit, in_shardings=(split, whole, split), out_shardings=whole)
    def gradient(hidden, table, targets):
        loss = lambda hidden: cross_entropy(targets, 64)(hidden, lambda h: h @ table).loss.sum()
        return jnp.square(jax.grad(loss)(hidden)).sum()

    shapes = (
        jax.ShapeDtypeStruct((16, 24, 4), jnp.float32),
        jax.ShapeDtypeStruct((4, 11), jnp.float32),
        jax.ShapeDtypeStruct((16, 24), jnp.int32),
    )
    text = gradient.lower(*shapes).compile(QUICK).as_text()
    assert "all-reduce" in text
    assert not re.search(r"all-gather|all-to-all|collective-permute", text)


def test_a_chunk_has_tokens():
    with pytest.raises(ValueError, match="a chunk of 0 tokens"):
        cross_entropy(jnp.zeros((1, 1), jnp.int32), 0)
