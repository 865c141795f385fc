"""Decoding with a cache computes what one pass over the whole text computes."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.case import QUICK

import lora_jax as lora
from lora_jax import models
from lora_jax.models.cache import begin, empty_cache, place, visible

FIXTURES = Path(__file__).parent.parent / "fixtures"
LENGTHS = (9, 6, 1)
PREFILLED = 4


def padded(*, left):
    """Three texts of random tokens with padding on one side."""
    ids = np.random.default_rng(0).integers(5, 40, (len(LENGTHS), max(LENGTHS)))
    mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    mask = mask[:, ::-1] if left else mask
    return ids.astype(np.int32), mask.astype(np.int32)


compiled = functools.partial(jax.jit, compiler_options=QUICK)


def adapted(model, ids, mask):
    """The model with an adapter on every linear weight whose B is not zero."""
    lifted = lora.lift(
        model.apply, model.params, ids, mask, method=lora.LoRA(2), targets=lora.ALL_LINEAR
    )
    factors = lifted.init(jax.random.key(0), model.params)
    factors = jax.tree.map(lambda x: x + 0.1, factors)
    return lambda params, *args, **named: lifted(params, factors, *args, **named)


def token_by_token(step, params, ids, mask, cache):
    """Logits of all tokens: the first few in one pass, then one at a time."""
    logits, cache = step(params, ids[:, :PREFILLED], mask[:, :PREFILLED], cache)
    parts = [logits]
    for i in range(PREFILLED, ids.shape[1]):
        logits, cache = step(params, ids[:, i : i + 1], mask[:, i : i + 1], cache)
        parts.append(logits)
    assert cache.used == ids.shape[1]
    assert cache.lengths.tolist() == mask.sum(1).tolist()
    return jnp.concatenate(parts, axis=1)


@pytest.mark.parametrize("name", ["gpt2", "llama_rope_yarn", "mistral", "mixtral", "gemma3"])
def test_every_position_of_an_adapted_decoder_is_that_of_the_full_pass(name):
    model = lora.hub.load_model(FIXTURES / name)
    apply = adapted(model, *padded(left=True))
    whole = compiled(apply)
    step = compiled(lambda params, ids, mask, cache: apply(params, ids, mask, cache=cache))
    for left in (True, False):
        ids, mask = padded(left=left)
        wanted = whole(model.params, ids, mask)
        cache = models.new_cache(model.config, len(ids), 12)
        found = token_by_token(step, model.params, ids, mask, cache)
        real = mask[..., None] == 1
        distance = np.linalg.norm(np.where(real, found - wanted, 0))
        assert distance < 1e-5 * np.linalg.norm(np.where(real, wanted, 0)), left


def test_padding_changes_no_real_token():
    model = lora.hub.load_model(FIXTURES / "gemma3", scan=False)
    run = compiled(model.apply)
    for left in (True, False):
        ids, mask = padded(left=left)
        together = run(model.params, ids, mask)
        for row in range(len(LENGTHS)):
            here = mask[row] == 1
            alone = run(model.params, ids[row : row + 1, here], mask[row : row + 1, here])
            assert np.allclose(together[row][here], alone[0], rtol=1e-4, atol=1e-4), (left, row)


def test_last_is_the_last_real_token_of_each_row():
    model = lora.hub.load_model(FIXTURES / "gpt2")
    ids, mask = padded(left=False)
    logits = model.apply(model.params, ids, mask)
    last = model.apply(model.params, ids, mask, outputs="last")
    wanted = np.stack([logits[row, length - 1] for row, length in enumerate(LENGTHS)])
    assert np.allclose(last, wanted, atol=1e-5)


def test_the_head_makes_the_logits_of_the_hidden_states():
    model = lora.hub.load_model(FIXTURES / "gpt2")
    ids, mask = padded(left=False)
    hidden = model.apply(model.params, ids, mask, outputs="hidden")
    assert hidden.shape == (*ids.shape, model.config.dim)
    logits = model.apply(model.params, ids, mask)
    assert np.allclose(hidden @ model.params["embed"]["embedding"].T, logits, atol=1e-5)


def test_places_count_real_tokens_and_only_earlier_ones_are_visible():
    order = place(jnp.array([[0, 1, 1, 0, 1]]))
    assert order.tolist() == [[-1, 0, 1, -1, 2]]
    seen = visible(order, order)[0, 0]
    assert seen[4].tolist() == [False, True, True, False, True]
    assert seen[1].tolist() == [False, True, False, False, False]


def test_a_selection_of_rows_is_what_those_rows_alone_had_cached():
    model = lora.hub.load_model(FIXTURES / "gpt2")
    ids, mask = padded(left=True)

    def read(ids, mask):
        return model.apply(model.params, ids, mask, cache=new(len(ids)))[1]

    def new(batch):
        return models.new_cache(model.config, batch, 12)

    rows = jnp.array([2, 0])
    selected, alone = read(ids, mask).select(rows), read(ids[rows], mask[rows])
    for a, b in zip(selected, alone, strict=True):
        assert np.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, ids: m.apply(m.params, ids, outputs="loss"), "known: logits, last, hidden"),
        (lambda m, ids: models.new_cache(m.config, 1, 81), "81 tokens long.*context is 80"),
        (
            lambda m, ids: m.apply(m.params, np.zeros((1, 81), np.int32)),
            "the batch is 81 tokens long, but the model's context is 80",
        ),
        (
            lambda m, ids: m.apply(m.params, ids, cache=models.new_cache(m.config, 3, 5)),
            "9 new tokens, but the cache has 5 slots",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    model = lora.hub.load_model(FIXTURES / "gpt2")
    with pytest.raises(ValueError, match=message):
        call(model, padded(left=False)[0])


def test_a_pass_over_an_empty_cache_starts_at_the_first_place():
    cache = empty_cache(1, 1, 4, 1, 2, "float32")
    ids = jnp.zeros((1, 2), jnp.int32)
    kept, order, keys = begin(cache, ids, None)
    assert order.tolist() == [[0, 1]]
    assert keys.tolist() == [[0, 1, -1, -1]]
    assert kept.order.tolist() == keys.tolist()
