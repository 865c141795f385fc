"""Beam search finds the likeliest texts, and those of the original implementation."""

import itertools
from pathlib import Path

import jax
import numpy as np
import pytest

from lora_jax import hub
from lora_jax.evaluation import BeamSearch, generate
from tests.evaluation.languages import Config, bigram, random_table

GPT2 = Path(__file__).parent.parent / "fixtures" / "gpt2"
STOP = 1
CONFIG = Config(vocab_size=4, eos_ids=(STOP,))
NEW = 4


def best_texts(table, start, penalty):
    """All texts of at most NEW tokens, by their scores, the best first."""
    logprobs = np.asarray(jax.nn.log_softmax(table, axis=-1), np.float64)
    found = []
    for length in range(1, NEW + 1):
        for text in itertools.product(range(4), repeat=length):
            if STOP in text[:-1] or (length < NEW and text[-1] != STOP):
                continue
            total = sum(logprobs[a, b] for a, b in itertools.pairwise((start, *text)))
            found.append((total / length**penalty, list(text)))
    return sorted(found, reverse=True)


def search(prompts, **settings):
    settings = {"early_stopping": "never", "length_penalty": 1.0} | settings
    table = random_table(4)
    sequences = settings.pop("sequences", 1)
    return generate(
        bigram,
        table,
        prompts,
        config=CONFIG,
        max_new_tokens=NEW,
        search=BeamSearch(**settings),
        sequences=sequences,
    )


def rows(made):
    return [
        tokens[:length].tolist()
        for tokens, length in zip(np.asarray(made.tokens), np.asarray(made.lengths), strict=True)
    ]


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5, -1.0])
def test_with_a_beam_for_every_text_it_finds_the_best_of_all(penalty):
    made = search([[2], [3]], beams=27, length_penalty=penalty, sequences=5)
    for prompt, start in enumerate((2, 3)):
        wanted = best_texts(random_table(4), start, penalty)[:5]
        part = slice(5 * prompt, 5 * prompt + 5)
        assert rows(made)[part] == [text for _, text in wanted]
        np.testing.assert_allclose(made.scores[part], [score for score, _ in wanted], rtol=1e-5)
        assert made.finished[part].tolist() == [text[-1] == STOP for _, text in wanted]


def test_one_beam_is_greedy():
    greedy = generate(bigram, random_table(4), [[2], [3]], config=CONFIG, max_new_tokens=NEW)
    made = search([[2], [3]], beams=1, early_stopping=True, length_penalty=0.0)
    assert rows(made) == rows(greedy)
    np.testing.assert_allclose(made.logprobs, greedy.logprobs, atol=1e-6)
    np.testing.assert_allclose(made.scores, greedy.scores, atol=1e-5)


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_a_text_does_not_depend_on_the_other_prompts(early_stopping):
    alone = search([[3]], beams=3, early_stopping=early_stopping)
    beside = search([[0], [2], [3]], beams=3, early_stopping=early_stopping)
    assert rows(beside)[2] == rows(alone)[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 0}, "beams = 0; it must be at least 1"),
        ({"beams": 2, "early_stopping": "always"}, 'early_stopping = .*"never"'),
        ({"beams": 2, "sequences": 3}, "at most the number of beams, 2"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        search([[2]], **settings)


LIVE = {
    "e2e": {"num_beams": 10, "length_penalty": 0.9, "no_repeat_ngram_size": 4},
    "early": {"num_beams": 3, "early_stopping": True, "num_return_sequences": 3},
    "never": {"num_beams": 3, "early_stopping": "never", "length_penalty": 2.0},
    "short": {"num_beams": 4, "length_penalty": -1.0, "repetition_penalty": 1.5},
    "ends": {"num_beams": 3, "eos_token_id": [2, 7, 11], "min_new_tokens": 3},
}


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", LIVE)
def test_texts_and_scores_are_those_of_the_original(name):
    torch = pytest.importorskip("torch", reason="torch is not installed: no live comparison")
    import transformers

    original = transformers.GPT2LMHeadModel.from_pretrained(GPT2).eval()
    ours = hub.load_model(GPT2)
    rng = np.random.default_rng(3)
    ids = rng.integers(5, 40, (3, 5))
    mask = np.array([[1] * 5, [0, 1, 1, 1, 1], [0, 0, 0, 1, 1]])
    settings = {"eos_token_id": [2, 7], "num_return_sequences": 2} | LIVE[name]
    theirs = original.generate(
        torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        **settings,
        do_sample=False,
        max_new_tokens=20,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    names = {"num_beams": "beams", "eos_token_id": "stop_ids"}
    names |= {"no_repeat_ngram_size": "no_repeat_ngram"}
    sequences = settings.pop("num_return_sequences")
    settings["eos_token_id"] = tuple(settings["eos_token_id"])
    made = generate(
        ours.apply,
        ours.params,
        ids,
        mask,
        config=ours.config,
        max_new_tokens=20,
        search=BeamSearch(**{names.get(key, key): value for key, value in settings.items()}),
        sequences=sequences,
    )
    wanted = theirs.sequences[:, 5:].numpy()
    assert np.asarray(made.tokens)[:, : wanted.shape[1]].tolist() == wanted.tolist()
    np.testing.assert_allclose(made.scores, theirs.sequences_scores.numpy(), rtol=1e-5)
