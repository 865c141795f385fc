"""Filters of logits and choices among them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax.evaluation import Sampling
from lora_jax.evaluation.rules import forbid_repeats, penalize
from lora_jax.evaluation.sampling import keep_min_p, keep_top_k, keep_top_p

LOGITS = jnp.log(jnp.array([[0.5, 0.05, 0.3, 0.15], [0.1, 0.2, 0.3, 0.4]]))


def kept(logits):
    return [np.flatnonzero(np.isfinite(row)).tolist() for row in np.asarray(logits)]


def test_top_k_keeps_the_likeliest():
    assert kept(keep_top_k(LOGITS, 2)) == [[0, 2], [2, 3]]
    assert kept(keep_top_k(LOGITS, 9)) == [[0, 1, 2, 3]] * 2


def test_top_p_keeps_the_fewest_that_reach_the_probability():
    assert kept(keep_top_p(LOGITS, 0.75)) == [[0, 2], [1, 2, 3]]
    assert kept(keep_top_p(LOGITS, 0.01)) == [[0], [3]]


def test_min_p_keeps_what_is_likely_beside_the_likeliest():
    assert kept(keep_min_p(LOGITS, 0.4)) == [[0, 2], [1, 2, 3]]
    assert kept(keep_min_p(LOGITS, 1.0)) == [[0], [3]]


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=0, max_size=12), st.integers(1, 4))
def test_a_token_is_forbidden_where_it_would_repeat_a_sequence(tokens, size):
    seen = {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}
    last = tuple(tokens[len(tokens) - size + 1 :]) if len(tokens) >= size else ()
    wanted = [token for token in range(4) if (*last, token) not in seen]
    text = np.full((1, 16), -1)
    text[0, 2 : 2 + len(tokens)] = tokens  # a prompt with two tokens of padding before it
    scores = forbid_repeats(jnp.zeros((1, 4)), jnp.array(text), 2 + len(tokens), size)
    assert kept(scores) == [wanted]


def test_a_rule_does_not_hold_before_the_first_token_nor_after_the_text():
    search = Sampling(repetition_penalty=2.0, no_repeat_ngram=2, stop_ids=(3,), min_new_tokens=1)
    text = jnp.array([[-1, -1, 2, -1, -1]])
    scores = search.enforce(jnp.ones((1, 4)), text, jnp.int32(3), jnp.int32(0))
    assert scores.tolist() == [[1.0, 1.0, 0.5, -np.inf]]
    scores = search.enforce(jnp.ones((1, 4)), text, jnp.int32(3), jnp.int32(1))
    assert scores.tolist() == [[1.0, 1.0, 0.5, 1.0]]


def test_tokens_are_drawn_as_often_as_their_probability_says():
    count = 20_000
    keys = jax.random.split(jax.random.key(0), count)
    search = Sampling(temperature=0.5, top_k=3)
    tokens = search.choose(jnp.broadcast_to(LOGITS[0], (count, 4)), keys, 0)
    weights = np.exp(LOGITS[0] / 0.5) * [1, 0, 1, 1]
    found = np.bincount(np.asarray(tokens), minlength=4) / count
    assert found[1] == 0
    # Four standard deviations of a share.
    np.testing.assert_allclose(found, weights / weights.sum(), atol=4 * 0.5 / count**0.5)


def test_one_token_to_draw_among_is_the_greedy_one():
    keys = jax.random.split(jax.random.key(0), 2)
    greedy = Sampling().choose(LOGITS, None, 0).tolist()
    for search in (Sampling(temperature=2.0, top_k=1), Sampling(temperature=2.0, top_p=1e-6)):
        assert search.choose(LOGITS, keys, 3).tolist() == greedy == [0, 3]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": -1.0}, r"temperature = -1.0; it must be 0 \(greedy\) or positive"),
        ({"top_k": -1}, "top_k = -1"),
        ({"top_p": 0.0}, "top_p = 0.0; it must be above 0"),
        ({"top_p": 1.5}, "at most 1"),
        ({"min_p": 1.5}, "min_p = 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty = 0.0; it must be positive"),
        ({"no_repeat_ngram": -2}, "no_repeat_ngram = -2"),
        ({"min_new_tokens": -1}, "min_new_tokens = -1"),
    ],
)
def test_a_setting_out_of_range_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**setting)


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_each_filter_is_that_of_the_original():
    torch = pytest.importorskip("torch", reason="torch is not installed: no live comparison")
    from transformers.generation import logits_process as original

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 50)).astype(np.float32) * 3
    text = rng.integers(0, 50, (4, 30))
    text[:, 15:] = text[:, :15]  # so that n-grams repeat
    original_inputs = torch.tensor(text), torch.tensor(logits)
    logits, text = jnp.array(logits), jnp.array(text)
    pairs = [
        (original.TopKLogitsWarper(7), keep_top_k(logits, 7)),
        (original.TopPLogitsWarper(0.8), keep_top_p(logits, 0.8)),
        (original.MinPLogitsWarper(0.1), keep_min_p(logits, 0.1)),
        (original.RepetitionPenaltyLogitsProcessor(1.3), penalize(logits, text, 1.3)),
        (original.NoRepeatNGramLogitsProcessor(1), forbid_repeats(logits, text, 30, 1)),
        (original.NoRepeatNGramLogitsProcessor(3), forbid_repeats(logits, text, 30, 3)),
    ]
    for process, ours in pairs:
        theirs = process(*original_inputs).numpy()
        np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-6)
        assert not np.array_equal(theirs, logits)
