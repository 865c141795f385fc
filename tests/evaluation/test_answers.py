"""Answers to records: from the prompts of training, one for each record, and how they score."""

import numpy as np
import pytest
from data.chat_model import make_tokenizer

from lora_jax.data import TextEncoder
from lora_jax.data.text_task import ask
from lora_jax.evaluation import answer, find_metric, score_answers
from lora_jax.hub import Pretrained
from tests.evaluation.languages import Config, bigram


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """A model that says "A" to what ends in "?" and "B" to what ends in "!", and its encoder."""
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("model"))
    size, end = tokenizer.vocab_size, tokenizer.eos_id
    one = lambda text: int(tokenizer.encode_ragged([text], special=False)[0].item())
    table = np.zeros((size, size), np.float32)
    for before, after in (("?", one("A")), ("!", one("B")), ("A", end), ("B", end)):
        table[one(before), after] = 9
    config = Config(vocab_size=size, eos_ids=(end,))
    parts = {"apply": bigram, "params": table, "tokenizer": tokenizer, "config": config}
    model = Pretrained(**dict.fromkeys(Pretrained._fields) | parts)
    return model, TextEncoder(tokenizer=tokenizer, length=40, separator="", bad_rows="skip")


RECORDS = [ask("Why?", "A"), ask("why " * 60, "A"), ask("Stop!", "A"), ask("Who are you?", "A")]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_each_record_gets_the_answer_to_its_own_prompt(oracle, batch_size):
    model, encoder = oracle
    texts = answer(model, encoder, RECORDS, max_new_tokens=10, batch_size=batch_size)
    assert texts == ["A", "", "B", "A"]  # the second prompt is too long


def test_what_is_not_answered_counts_as_wrong(oracle):
    model, encoder = oracle
    texts = answer(model, encoder, RECORDS, max_new_tokens=10, batch_size=4)
    scores = score_answers(("exact_match", "anls"), texts, RECORDS)
    assert list(scores) == ["exact_match", "anls"]
    assert scores["exact_match"].mean == 0.5
    assert scores["exact_match"].low < 0.5 < scores["exact_match"].high


def test_any_of_the_references_is_right():
    record = ask("Why?", "So.", references=("Thus.", "So."))
    scores = score_answers(("exact_match",), ["Thus."], [record])
    assert scores["exact_match"].mean == find_metric("exact_match")(["So."], [["So."]]) == 1


def test_records_of_which_none_can_be_asked_are_an_error(oracle):
    model, encoder = oracle
    with pytest.raises(ValueError, match="no prompt is left"):
        answer(model, encoder, RECORDS[1:2], max_new_tokens=10, batch_size=4)
