"""Texts as they come, and strings that end them."""

import jax
import numpy as np
import pytest
import tokenizers

from lora_jax.evaluation import BeamSearch, Sampling, generate, generate_text
from lora_jax.hub import Encoded, Pretrained, Prompt, Tokenizer
from tests.evaluation.languages import Config, bigram, random_table, saying, script

STOP = 1


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Two special tokens, the 256 bytes, and the words "the" and " end"."""
    directory = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "e"), ("Ġe", "n"), ("Ġen", "d")]
    pieces = ["<pad>", "<stop>", *alphabet, *("".join(pair) for pair in merges)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<pad>", "<stop>"])
    made.save(str(directory / "tokenizer.json"))
    return Tokenizer(directory, pad_id=0)


def pretrained(apply, params, config, tokenizer):
    """A model of these parts, whatever else a loaded one has."""
    parts = {"apply": apply, "params": params, "config": config, "tokenizer": tokenizer}
    return Pretrained(**dict.fromkeys(Pretrained._fields) | parts)


@pytest.fixture(scope="module")
def say(tokenizer):
    """Has a model say a text, whatever the prompt of one token, and then its stop token."""
    size = tokenizer.vocab_size
    config = Config(vocab_size=size, eos_ids=(STOP,))

    def say(text, **options):
        tokens = [*tokenizer.encode([text]).ids[0].tolist(), STOP]
        table = saying([*tokens, *[0] * (60 - len(tokens))], size)
        model = pretrained(script, table, config, tokenizer)
        return generate_text(model, ["x"], max_new_tokens=50, **options)[0]

    return say


def test_the_text_is_what_the_tokens_say(say, tokenizer):
    made = say("What the cat saw in the end")
    assert made.text == "What the cat saw in the end"
    assert made.tokens == [*tokenizer.encode([made.text]).ids[0].tolist(), STOP]
    assert made.finished


@pytest.mark.parametrize("chunk", [1, 4, 50])
def test_a_string_ends_the_text_wherever_it_lies_in_the_tokens(say, chunk):
    # "the end" is cut by tokens as "the", " end"; the "e e" that ends it lies in both.
    shown = []
    made = say(
        "So the end came.",
        stop=["e e", "ends"],
        chunk=chunk,
        callback=lambda row, piece: shown.append(piece),
    )
    assert made.text == "So th" == "".join(shown)
    assert made.finished
    assert len(made.tokens) == 5  # S, o, space, the, end


def test_the_first_of_several_strings_ends_the_text(say):
    assert say("one, two. three", stop=["three", ". ", ","]).text == "one"
    assert say("ab\n\nc", stop=["\n\n"]).text == "ab"


def test_what_only_began_like_a_stop_string_is_shown(say):
    shown = []
    made = say(
        "a stopp and", stop=["stopped", "andes"], callback=lambda _, piece: shown.append(piece)
    )
    assert made.text == "a stopp and" == "".join(shown)


def test_pieces_hold_whole_characters_only(say):
    shown = []
    made = say("naïve – 日本 🎈!", chunk=1, callback=lambda row, piece: shown.append(piece))
    assert "".join(shown) == made.text == "naïve – 日本 🎈!"
    assert not [piece for piece in shown if "\N{REPLACEMENT CHARACTER}" in piece]
    assert {"ï", "–", "日", "本", "🎈"} <= set(shown)


def test_a_text_cut_in_a_character_shows_that(say):
    assert say("🎈").text == "🎈"
    model_text = say("🎈", search=Sampling(stop_ids=(say("🎈").tokens[1],)))
    assert model_text.text == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("chunk", [1, 7])
def test_streaming_says_the_tokens_of_generate(tokenizer, chunk):
    size = tokenizer.vocab_size
    config = Config(vocab_size=size, eos_ids=(STOP, 3))
    model = pretrained(bigram, random_table(size) / 2, config, tokenizer)
    prompts = tokenizer.encode(["the", "x", "some of it"], side="left")
    options = {"max_new_tokens": 20, "search": Sampling(temperature=1.0, top_k=9)}
    options |= {"key": jax.random.key(4), "sequences": 2}
    wanted = generate(
        model.apply, model.params, prompts.ids, prompts.mask, config=config, **options
    )
    pieces = [""] * 6

    def collect(row, piece):
        pieces[row] += piece

    found = generate_text(model, prompts, callback=collect, chunk=chunk, **options)
    for row, completion in enumerate(found):
        length = int(wanted.lengths[row])
        assert completion.tokens == wanted.tokens[row, :length].tolist()
        assert completion.finished == bool(wanted.finished[row])
        np.testing.assert_allclose(completion.score, wanted.scores[row], rtol=1e-5)
        assert completion.text == tokenizer.decode(completion.tokens) == pieces[row]


def test_a_beam_search_gives_its_texts_at_the_end(tokenizer):
    size = tokenizer.vocab_size
    config = Config(vocab_size=size, eos_ids=(STOP,))
    model = pretrained(bigram, random_table(size), config, tokenizer)
    search = BeamSearch(beams=3)
    options = {"max_new_tokens": 6, "search": search, "sequences": 2}
    shown = []
    found = generate_text(
        model, ["the", "x"], callback=lambda row, piece: shown.append((row, piece)), **options
    )
    prompts = tokenizer.encode(["the", "x"])
    wanted = generate(bigram, model.params, prompts.ids, prompts.mask, config=config, **options)
    assert [text.tokens for text in found] == wanted.tokens.tolist()
    np.testing.assert_allclose([text.score for text in found], wanted.scores, rtol=1e-6)
    assert shown == [(row, text.text) for row, text in enumerate(found)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": "end"}, "stop = 'end'; it must be a sequence of texts"),
        ({"stop": [""]}, "stop = "),
        ({"chunk": 0}, "chunk = 0"),
        ({"stop": ["a"], "search": BeamSearch(beams=2)}, "use stop_ids, or Sampling"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(say, options, message):
    with pytest.raises(ValueError, match=message):
        say("a", **options)


def test_a_tokenizer_of_another_model_is_noticed(tokenizer):
    model = pretrained(bigram, random_table(40), Config(vocab_size=40), tokenizer)
    with pytest.raises(ValueError, match="vocabulary is 40; is the tokenizer that of the model"):
        generate_text(model, ["the"], max_new_tokens=2)


def test_pictures_come_with_the_prompt_and_not_with_the_tokens_after_it(tokenizer):
    def apply(table, ids, mask=None, *, pixels=None, **named):
        assert (pixels is None) == (ids.shape[1] == 1)
        logits, cache = bigram(table, ids, mask, **named)
        return logits + (0 if pixels is None else 50 * jax.nn.one_hot(pixels, size)), cache

    size = tokenizer.vocab_size
    model = pretrained(apply, random_table(size), Config(vocab_size=size), tokenizer)
    ids = tokenizer.encode(["x y"]).ids
    prompt = Prompt(ids, np.ones_like(ids), {"pixels": np.array([7])})
    assert generate_text(model, prompt, max_new_tokens=3)[0].tokens[0] == 7


def test_encoded_prompts_are_taken_as_they_are(say, tokenizer):
    config = Config(vocab_size=tokenizer.vocab_size)
    model = pretrained(bigram, random_table(tokenizer.vocab_size), config, tokenizer)
    ids = tokenizer.encode(["the"]).ids
    encoded = Encoded(ids, np.ones_like(ids), np.zeros_like(ids))
    first, second = (
        generate_text(model, prompts, max_new_tokens=3) for prompts in (encoded, ["the"])
    )
    assert first == second
