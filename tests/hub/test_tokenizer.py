"""Texts to ids: special tokens, pairs, padding and truncation."""

from pathlib import Path

import numpy as np
import pytest

from lora_jax import hub

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.fixture
def tokenizer():
    return hub.Tokenizer(FIXTURES / "roberta", pad_id=1)


def spelt(tokenizer, encoded):
    return [" ".join(tokenizer.tokens(row)) for row in encoded.ids]


def test_short_texts_are_padded_to_the_longest(tokenizer):
    encoded = tokenizer.encode(["a cat sat", "dog"])
    assert spelt(tokenizer, encoded) == ["<s> a cat sat </s>", "<s> dog </s> <pad> <pad>"]
    assert encoded.mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert (encoded.ids[encoded.mask == 0] == 1).all()
    assert {x.dtype for x in encoded} == {np.dtype(np.int32)}


def test_a_length_pads_every_batch_alike(tokenizer):
    assert tokenizer.encode(["a cat"], length=9).ids.shape == (1, 9)
    assert tokenizer.encode([], length=9).ids.shape == (0, 9)


def test_the_second_text_of_a_pair_has_type_one(tokenizer):
    encoded = tokenizer.encode(["a cat", "dog"], ["the fox ran", "it"])
    assert spelt(tokenizer, encoded)[0] == "<s> a cat </s> the fox ran </s>"
    assert encoded.type_ids.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0]]


def test_long_texts_are_refused(tokenizer):
    with pytest.raises(ValueError) as caught:
        tokenizer.encode(["dog", "the old man and the cat", "a cat sat"], length=4)
    message = str(caught.value)
    assert "2 of 3 texts are longer than 4 tokens" in message
    assert "(number 1, 'the old man and the cat'…) has 8" in message
    assert "truncate=True" in message


def test_long_texts_are_truncated_on_request_and_keep_their_special_tokens(tokenizer):
    encoded = tokenizer.encode(["the old man and the cat"], length=4, truncate=True)
    assert spelt(tokenizer, encoded) == ["<s> the old </s>"]


def test_of_a_pair_the_longer_text_is_cut(tokenizer):
    encoded = tokenizer.encode(["dog"], ["the old man and the cat"], length=7, truncate=True)
    assert spelt(tokenizer, encoded) == ["<s> dog </s> the old man </s>"]


def test_truncation_ends_with_the_call_that_asked_for_it(tokenizer):
    tokenizer.encode(["the old man and the cat"], length=4, truncate=True)
    assert tokenizer.encode(["the old man and the cat"]).ids.shape == (1, 8)


def test_padding_and_truncation_in_the_file_are_set_aside(tmp_path, tokenizer):
    import tokenizers

    made = tokenizers.Tokenizer.from_file(str(FIXTURES / "roberta" / "tokenizer.json"))
    made.enable_truncation(3)
    made.enable_padding(length=20)
    made.save(str(tmp_path / "tokenizer.json"))
    found = hub.Tokenizer(tmp_path, pad_id=1).encode(["the old man", "cat"])
    assert np.array_equal(found.ids, tokenizer.encode(["the old man", "cat"]).ids)


def test_decoding_gives_back_the_text(tokenizer):
    encoded = tokenizer.encode(["the old man and the cat"], length=12)
    assert tokenizer.decode(encoded.ids[0]) == "the old man and the cat"


def test_pairs_must_be_as_many_as_texts(tokenizer):
    with pytest.raises(ValueError, match="2 texts, but 1 second texts"):
        tokenizer.encode(["a", "dog"], ["cat"])
