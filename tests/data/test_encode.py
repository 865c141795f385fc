"""Encoding: padded and cut right, by the real tokenizer of MiniLM."""

import numpy as np
import pytest

from lora_jax.data import Record, encode
from lora_jax.hub import Tokenizer

CLS, SEP, PAD = 101, 102, 0  # BERT's


@pytest.fixture(scope="module")
def tokenizer(minilm_dir):
    return Tokenizer(minilm_dir, pad_id=PAD)


def test_short_texts_are_padded_at_the_end(tokenizer):
    examples = encode([Record("open the file", 3), Record("close", 0)], tokenizer, 8)
    assert examples["ids"].tolist() == [
        [CLS, 2330, 1996, 5371, SEP, PAD, PAD, PAD],
        [CLS, 2485, SEP, PAD, PAD, PAD, PAD, PAD],
    ]
    assert examples["mask"].tolist() == [[1] * 5 + [0] * 3, [1] * 3 + [0] * 5]
    assert not examples["type_ids"].any()
    assert examples["label"].tolist() == [3, 0]


def test_long_texts_are_cut_and_keep_their_last_special_token(tokenizer):
    examples = encode([Record("open the file and read it", 0)], tokenizer, 5)
    assert examples["ids"].tolist() == [[CLS, 2330, 1996, 5371, SEP]]
    assert examples["mask"].all()


def test_of_a_pair_the_longer_text_is_cut_first(tokenizer):
    records = [Record("open the file and read all of it", 1.5, "close")]
    examples = encode(records, tokenizer, 8)
    ids = examples["ids"][0].tolist()
    assert ids == [CLS, 2330, 1996, 5371, 1998, SEP, 2485, SEP]
    assert examples["type_ids"][0].tolist() == [0] * 6 + [1] * 2


def test_classes_are_integers_and_scores_are_floats(tokenizer):
    classes = encode([Record("one", 1), Record("two", 0)], tokenizer, 4)
    scores = encode([Record("one", 1.0), Record("two", 2.5)], tokenizer, 4)
    assert (classes["label"].dtype, scores["label"].dtype) == (np.int32, np.float32)
    assert all(classes[name].dtype == np.int32 for name in ("ids", "mask", "type_ids"))


def test_bad_input_is_refused(tokenizer):
    with pytest.raises(ValueError, match="no records"):
        encode([], tokenizer, 8)
    with pytest.raises(ValueError, match="some have none"):
        encode([Record("one", 0), Record("two", 0, "three")], tokenizer, 8)
    with pytest.raises(ValueError, match="length of 3 tokens"):
        encode([Record("one", 0)], tokenizer, 3)
