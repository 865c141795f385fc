"""Texts to ids: special tokens, pairs, padding and truncation."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_padding_may_stand_before_the_text(tokenizer):
    encoded = tokenizer.encode(["a cat", "dog"], ["dog", "it"], length=7, side="left")
    assert spelt(tokenizer, encoded) == [
        "<pad> <s> a cat </s> dog </s>",
        "<pad> <pad> <s> dog </s> it </s>",
    ]
    assert encoded.mask.tolist() == [[0, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1]]
    assert encoded.type_ids.tolist() == [[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1, 1]]
    with pytest.raises(ValueError, match="unknown side 'start'; known: right, left"):
        tokenizer.encode(["a"], side="start")


def test_a_text_that_spells_its_special_tokens_gets_no_others(tokenizer):
    encoded = tokenizer.encode(["<s> a cat </s>"], special=False)
    assert spelt(tokenizer, encoded) == ["<s> a cat </s>"]


def test_special_tokens_are_decoded_on_request(tokenizer):
    ids = tokenizer.encode(["a cat"], length=6).ids[0]
    assert tokenizer.decode(ids, special=True) == "<s> a cat </s> <pad> <pad>"


@pytest.fixture
def byte_level(tmp_path):
    return make_byte_level(tmp_path)


def make_byte_level(directory):
    """A tokenizer whose every token is a byte, as the rarest tokens of large models are."""
    import tokenizers

    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = {letter: i for i, letter in enumerate(letters)} | {"<|end|>": 256, "<|fill|>": 257}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(words, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<|end|>", "<|fill|>"])
    made.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="session")
def byte_level_once(tmp_path_factory):
    return hub.Tokenizer(make_byte_level(tmp_path_factory.mktemp("bytes")))


def name_tokens(directory, **names):
    (directory / "tokenizer_config.json").write_text(json.dumps(names))


def test_the_model_says_what_pads_then_the_tokenizer_then_the_end_of_text_does(byte_level):
    name_tokens(byte_level, pad_token="<|fill|>", eos_token={"content": "<|end|>"})
    assert hub.Tokenizer(byte_level, pad_id=3).pad_id == 3
    assert hub.Tokenizer(byte_level).pad_id == 257
    name_tokens(byte_level, eos_token="<|end|>")
    assert hub.Tokenizer(byte_level).pad_id == 256
    name_tokens(byte_level)
    assert hub.Tokenizer(byte_level, eos_id=5).pad_id == 5


def test_ids_of_special_tokens_come_from_the_tokenizer_or_else_from_the_model(byte_level):
    name_tokens(byte_level, bos_token="<|end|>", eos_token=None)
    tokenizer = hub.Tokenizer(byte_level, bos_id=1, eos_id=2)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (256, 2)
    assert hub.Tokenizer(byte_level).eos_id is None


def test_without_any_token_to_pad_with_only_texts_of_one_length_make_a_batch(byte_level):
    tokenizer = hub.Tokenizer(byte_level)
    assert tokenizer.pad_id is None
    assert tokenizer.encode(["abc", "def"]).ids.shape == (2, 3)
    with pytest.raises(ValueError, match=r"names no padding token and no end of text.*pad_id="):
        tokenizer.encode(["abc", "de"])


def test_a_token_beyond_the_table_of_the_model_is_refused_where_it_is_used(byte_level):
    tokenizer = hub.Tokenizer(byte_level, vocab_size=257)
    assert tokenizer.encode(["<|end|>"]).ids.tolist() == [[256]]
    with pytest.raises(ValueError, match=r"token '<\|fill\|>' has the id 257.*ends at 256"):
        tokenizer.encode(["<|fill|>"])


@pytest.mark.parametrize("file", ["tokenizer.model", "spm.model", "vocab.json", "vocab.txt"])
def test_a_tokenizer_of_another_form_names_the_way_to_convert_it(tmp_path, file):
    (tmp_path / file).write_text("")
    with pytest.raises(FileNotFoundError, match=rf"only {file}; make it once.*save_pretrained"):
        hub.Tokenizer(tmp_path).encode(["a"])


@given(st.text(max_size=12), st.lists(st.integers(0, 257), max_size=6))
def test_streamed_text_is_the_decoded_text_in_complete_characters(byte_level_once, text, noise):
    ids = [*byte_level_once.encode([text]).ids[0].tolist(), *noise]
    for special in (False, True):
        stream = hub.TextStream(byte_level_once, special=special)
        pieces = [stream.add(token) for token in ids]
        whole = byte_level_once.decode(ids, special=special)
        assert "".join(pieces) + stream.end() == whole
        if not noise and "\ufffd" not in text:
            assert "".join(pieces) == text


def test_a_character_is_shown_with_the_last_of_its_tokens(byte_level):
    tokenizer = hub.Tokenizer(byte_level)
    stream = hub.TextStream(tokenizer)
    assert [stream.add(token) for token in tokenizer.encode(["é漢a"]).ids[0]] == [
        *("", "é", "", "", "漢", "a")
    ]
    stream.add(tokenizer.encode(["é"]).ids[0, 0])
    assert stream.end() == "\ufffd"


def test_streamed_words_keep_the_spaces_between_them(tokenizer):
    ids = tokenizer.encode(["the old man and the cat"]).ids[0]
    stream = hub.TextStream(tokenizer)
    pieces = [stream.add(token) for token in ids]
    assert pieces[:4] == ["", "the", " old", " man"]
    assert "".join(pieces) == "the old man and the cat"
