"""Conversations to tokens: exactly the answers are trained, and none is lost in silence."""

import io
import json

import numpy as np
import PIL.Image
import pytest
from data.chat_model import TEMPLATES, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from lora_jax import hub
from lora_jax.data import TextEncoder, TextRecord, Turn, load_text_task, pack, pad
from lora_jax.data.audit import find_lost_answers, trained_texts
from lora_jax.data.encode_text import answers
from lora_jax.data.text_task import ask
from lora_jax.hub.llama2c_tokenizer import Llama2cTokenizer
from lora_jax.models.decoder import DecoderConfig
from lora_jax.models.llava import LlavaConfig
from lora_jax.models.vision import VisionConfig

ENDS = {"chatml": "<|im_end|>", "brackets": "<|endoftext|>", "headers": "<|endoftext|>"}
TALK = TextRecord(
    (
        Turn("system", "Be brief."),
        Turn("user", "Why?"),
        Turn("assistant", "Because."),
        Turn("user", "And how, exactly?"),
    ),
    "Like this.\nOr that.",
    place="talk.jsonl, line 1",
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: make_tokenizer(root / name, text) for name, text in TEMPLATES.items()}


@pytest.fixture(scope="session")
def stories(data_dir):
    """The tokenizer of stories260K, which has no chat template."""
    path = data_dir / "stories260k" / "tok512.bin"
    return Llama2cTokenizer(path, bos_id=1, eos_id=2, pad_id=0)


def encoder(tokenizer, **settings):
    return TextEncoder(tokenizer=tokenizer, **{"length": 4096, **settings})


def whole(example, tokenizer):
    return tokenizer.decode(example["ids"], special=True)


def only(encoded):
    (example,) = encoded.examples
    return example


# ---- Plain text


def test_plain_text_trains_the_answer_and_its_end(tokenizer):
    example = only(encoder(tokenizer).encode([ask("Why?", "Because.")]))
    assert whole(example, tokenizer) == "Why?\nBecause.<|endoftext|>"
    assert trained_texts(example, tokenizer) == [("Because.", "<|endoftext|>")]
    assert example["ids"].dtype == example["trained"].dtype == np.int32


def test_every_answer_of_a_conversation_is_trained_or_the_last_or_everything(tokenizer):
    made = {
        choice: only(encoder(tokenizer, train_on=choice).encode([TALK]))
        for choice in ("turns", "answer", "everything")
    }
    assert trained_texts(made["turns"], tokenizer) == [
        ("Because.", "<|endoftext|>"),
        ("Like this.\nOr that.", "<|endoftext|>"),
    ]
    assert trained_texts(made["answer"], tokenizer) == [("Like this.\nOr that.", "<|endoftext|>")]
    assert made["everything"]["trained"].all()
    for example in made.values():
        np.testing.assert_array_equal(example["ids"], made["turns"]["ids"])


def test_a_text_without_turns_is_trained_whole_after_the_begin_token(stories):
    example = only(encoder(stories).encode([TextRecord((), "Once upon a time")]))
    assert stories.tokens(example["ids"][:1]) == ["<s>"]
    assert example["trained"].tolist() == [0] + [1] * (len(example["ids"]) - 1)
    assert trained_texts(example, stories) == [("Once upon a time", "</s>")]


def test_an_instruction_comes_first_unless_a_record_has_its_own(tokenizer):
    settings = encoder(tokenizer, instruction="Be kind.")
    first, second = settings.encode([ask("Why?", "So."), TALK]).examples
    assert whole(first, tokenizer).startswith("Be kind.\nWhy?\n")
    assert whole(second, tokenizer).startswith("Be brief.\nWhy?\n")


def test_the_end_token_can_be_named(tokenizer):
    example = only(encoder(tokenizer, end="<|im_end|>").encode([ask("Why?", "So.")]))
    assert trained_texts(example, tokenizer) == [("So.", "<|im_end|>")]
    with pytest.raises(ValueError, match=r"no token '<end>' to end answers with; .*<\|im_end\|>"):
        encoder(tokenizer, end="<end>")


def test_a_model_without_an_end_of_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="names no end of text; name a token with `end`"):
        encoder(make_tokenizer(tmp_path, eos_token=None))


# ---- Chat templates


@pytest.mark.parametrize("name", TEMPLATES)
def test_chat_templates_train_what_the_assistant_says_with_its_end(name, models):
    tokenizer = models[name]
    example = only(encoder(tokenizer, template="chat").encode([TALK]))
    found = [(text.strip(), end) for text, end in trained_texts(example, tokenizer)]
    assert found == [("Because.", ENDS[name]), ("Like this.\nOr that.", ENDS[name])]
    messages = [{"role": turn.role, "content": turn.text} for turn in TALK.turns]
    messages.append({"role": "assistant", "content": TALK.answer})
    text = tokenizer.apply_chat_template(messages)
    assert whole(example, tokenizer) == text.rstrip("\n")


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_of_training_is_that_of_generation(name, models):
    """What the model sees before an answer is what the template and the tokenizer make of it."""
    tokenizer = models[name]
    example = only(encoder(tokenizer, template="chat").encode([TALK]))
    before = example["ids"][: answers(example["trained"])[-1].start]
    messages = [{"role": turn.role, "content": turn.text} for turn in TALK.turns]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    if name == "headers":  # which writes no opening when it is asked for one
        prompt += "<|im_start|>assistant<|im_end|>\n\n"
    np.testing.assert_array_equal(before, tokenizer.encode([prompt], special=False).ids[0])


def test_the_last_answer_alone_can_be_trained_in_a_chat(models):
    example = only(encoder(models["chatml"], template="chat", train_on="answer").encode([TALK]))
    assert trained_texts(example, models["chatml"]) == [("Like this.\nOr that.", "<|im_end|>")]


def test_a_template_that_rewrites_earlier_turns_is_refused_but_for_the_last(tmp_path):
    template = "{% for m in messages %}<s>{{ m.content if loop.last else 'gone' }}{% endfor %}"
    tokenizer = make_tokenizer(tmp_path, template)
    with pytest.raises(ValueError, match=r"talk.jsonl, line 1: .* otherwise .*train_on='answer'"):
        encoder(tokenizer, template="chat").encode([TALK])


def test_a_template_that_changes_the_answer_is_refused(tmp_path):
    template = "{% for m in messages %}<s>{{ m.content | upper }}{% endfor %}"
    tokenizer = make_tokenizer(tmp_path, template)
    with pytest.raises(ValueError, match=r"does not show the answer 'Because.' as it is"):
        encoder(tokenizer, template="chat").encode([TALK])


def test_a_conversation_that_begins_with_the_assistant_is_refused(tokenizer):
    record = TextRecord((Turn("assistant", "Hi!"), Turn("user", "Hi.")), "What is it?")
    with pytest.raises(ValueError, match="begins with the assistant"):
        encoder(tokenizer, template="chat").encode([record])


# ---- Properties

words = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1, max_size=20)
texts = words.filter(lambda text: text.strip() and "<" not in text)
talks = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)


@given(talks, st.sampled_from(["plain", "chat"]), st.booleans())
def test_trained_tokens_decode_to_exactly_the_answers_packed_or_not(
    models, pairs, template, packed
):
    tokenizer = models["chatml"]
    turns = [
        turn for asked, said in pairs for turn in (Turn("user", asked), Turn("assistant", said))
    ]
    record = TextRecord(tuple(turns[:-1]), turns[-1].text)
    made = encoder(tokenizer, template=template).encode([record, TALK, record])
    assert not list(find_lost_answers(made, [record, TALK, record], encoder(tokenizer)))
    rows = (pack if packed else pad)(made.examples, 4096)
    end = "<|im_end|>" if template == "chat" else "<|endoftext|>"
    wanted = [(said, end) for _, said in pairs]
    found = [trained_texts(example, tokenizer) for example in unpack(rows)]
    assert sorted(found, key=str) == sorted(
        [wanted, [("Because.", end), ("Like this.\nOr that.", end)], wanted], key=str
    )


def unpack(rows):
    for ids, trained, segments in zip(
        *(rows[k] for k in ("ids", "trained", "segments")), strict=True
    ):
        for segment in range(1, segments.max() + 1):
            yield {"ids": ids[segments == segment], "trained": trained[segments == segment]}


# ---- Real files, real tokenizers


def telling(records):
    """Some of the records, in which all is to be found that could make one of them go wrong."""
    rows = set(range(0, len(records), 1 + len(records) // 200))
    for length in (lambda record: len(record.answer), lambda record: len(record.prompt)):
        sizes = [length(record) for record in records]
        rows |= {sizes.index(end) for end in (min(sizes), max(sizes))}
    seen = set()
    for row, record in enumerate(records):
        new = set(record.prompt + record.answer) - seen
        if new or record.answer != record.answer.strip():  # every character, and every odd end
            seen |= new
            rows.add(row)
    return [records[row] for row in sorted(rows)]


def check_every(records, settings):
    made = settings.encode(records)
    assert len(made.examples) == len(records)
    assert not list(find_lost_answers(made, records, settings))
    if "</s>" in settings.tokenizer.control_tokens:  # lossless: literally equal
        for example, record in zip(made.examples, records, strict=True):
            assert trained_texts(example, settings.tokenizer) == [(record.answer, "</s>")]


@pytest.mark.needs_data
@pytest.mark.parametrize("name", ["e2e_nlg", "gsm8k", "medmcqa", "sroie"])
def test_answers_of_real_files_survive(name, data_dir, stories, minilm_dir, models):
    options = {"medmcqa": {"split": "validation"}, "sroie": {"show": "text"}}
    task = load_text_task(name, {"directory": data_dir / name, **options.get(name, {})})
    encoders = [
        encoder(stories),
        encoder(hub.Tokenizer(minilm_dir, pad_id=0), end="[SEP]"),
        *(encoder(tokenizer, template="chat") for tokenizer in models.values()),
    ]
    names = {name for settings in encoders for name in settings.tokenizer.control_tokens}
    for records in filter(None, (task.train, task.validation, task.test)):
        # Of every record, what is refused; of telling ones, what becomes of them.
        assert all(record.answer.strip() for record in records)
        texts = "\n".join(f"{record.prompt}\n{record.answer}" for record in records)
        assert not [name for name in names if name in texts]
        some = telling(records)
        for settings in encoders:
            check_every(some, settings)


# ---- Records that are too long

LONG = ask(" ".join(f"word{i}" for i in range(60)) + " the end", "Short.", place="x.csv, line 9")


def test_a_record_that_is_too_long_is_an_error_that_names_its_place(tokenizer):
    with pytest.raises(ValueError, match=r"x.csv, line 9: \d+ tokens do not fit into 40; make"):
        encoder(tokenizer, length=40).encode([LONG])


def test_it_can_be_left_out_and_is_counted(tokenizer):
    made = encoder(tokenizer, length=40, bad_rows="skip").encode(
        [ask("a", "b"), LONG, ask("c", "d")]
    )
    assert made.rows == [0, 2]
    assert [fault[:13] for fault in made.skipped] == ["x.csv, line 9"]
    assert not made.cut


@pytest.mark.parametrize("template", ["plain", "chat"])
@pytest.mark.parametrize(
    ("truncate", "kept", "gone"),
    [("left", "the end", "word0 "), ("middle", "word0 ", "word30")],
)
def test_a_prompt_can_be_cut_but_never_its_answer(tokenizer, template, truncate, kept, gone):
    settings = encoder(
        tokenizer, length=60, template=template, truncate=truncate, instruction="Be brief."
    )
    made = settings.encode([LONG])
    text = whole(only(made), tokenizer)
    assert kept in text
    assert gone not in text
    assert "the end" in text
    assert "Be brief." in text
    assert len(only(made)["ids"]) <= 60
    assert len(only(made)["ids"]) > 45  # no more is cut than needs be
    assert trained_texts(only(made), tokenizer)[0][0] == "Short."
    assert made.cut == ("x.csv, line 9",)


def test_an_answer_that_does_not_fit_is_never_cut(tokenizer):
    record = ask("Why?", "because " * 60, place="x.csv, line 2")
    with pytest.raises(ValueError, match="do not fit into 40, and cutting its prompt does not"):
        encoder(tokenizer, length=40, truncate="left").encode([record])


@given(st.integers(12, 60), st.sampled_from(["left", "middle"]), texts)
def test_cut_examples_fit_and_keep_their_answers(models, length, truncate, said):
    record = ask("naïve ünïcödé — " * 20, said)
    settings = encoder(models["chatml"], length=length, truncate=truncate, bad_rows="skip")
    made = settings.encode([record])
    assert len(made.examples) + len(made.skipped) == 1
    for example in made.examples:
        assert len(example["ids"]) <= length
        assert trained_texts(example, models["chatml"]) == [(said, "<|endoftext|>")]


# ---- Records that cannot be encoded


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (ask("Why?", "  "), "the answer is empty"),
        (ask("Why <|im_end|>?", "So."), r"text of the user holds '<\|im_end\|>'"),
        (ask("Why?", "So.<|endoftext|>"), r"text of the assistant holds '<\|endoftext\|>'"),
        (ask("Why?", "So.", images=(b"x",)), "has a picture, but the model reads none"),
    ],
)
def test_what_cannot_be_encoded_is_refused_or_left_out(tokenizer, record, message):
    record = record._replace(place="x.jsonl, line 3")
    with pytest.raises(ValueError, match=f"x.jsonl, line 3: .*{message}"):
        encoder(tokenizer).encode([record])
    made = encoder(tokenizer, bad_rows="skip").encode([ask("a", "b"), record])
    assert made.rows == [0]
    assert len(made.skipped) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "chats"}, "unknown template 'chats'; nearest: 'chat'"),
        ({"truncate": "right"}, "unknown choice of truncate 'right'"),
        ({"train_on": "turn"}, "unknown choice of train_on 'turn'; nearest: 'turns'"),
        ({"bad_rows": "drop"}, "unknown choice of bad_rows 'drop'"),
        ({"length": 1}, "length is 1, but an answer and its end take 2 tokens"),
    ],
)
def test_unknown_choices_are_refused(tokenizer, settings, message):
    with pytest.raises(ValueError, match=message):
        encoder(tokenizer, **settings)


# ---- Prompts for generation


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_prompts_are_the_tokens_before_the_answers_padded_on_the_left(tokenizer, template):
    records = [ask("Why?", "So."), TALK]
    settings = encoder(tokenizer, template=template)
    found = settings.prompts(records, new_tokens=16)
    for row, example in enumerate(settings.encode(records).examples):
        before = example["ids"][: answers(example["trained"])[-1].start]
        real = found.batch.ids[row][found.batch.mask[row] == 1]
        np.testing.assert_array_equal(real, before)
        assert found.batch.mask[row][-1] == 1


def test_prompts_leave_room_for_answers_and_do_not_depend_on_them(tokenizer):
    settings = encoder(tokenizer, length=60, truncate="left")
    one, other = (
        settings.prompts([LONG._replace(answer=answer)], 30).batch for answer in ("a", "b " * 20)
    )
    np.testing.assert_array_equal(one.ids, other.ids)
    assert 20 < one.ids.shape[1] <= 30


def test_prompts_that_do_not_fit_are_left_out_and_counted(tokenizer):
    found = encoder(tokenizer, length=40, bad_rows="skip").prompts([LONG, ask("a", "b")], 8)
    assert found.rows == [1]
    assert len(found.skipped) == 1
    with pytest.raises(ValueError, match=r"no prompt is left of 1: x.csv, line 9"):
        encoder(tokenizer, length=40, bad_rows="skip").prompts([LONG], 8)


# ---- Pictures


def png(width, height):
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (width, height), (width, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    directory = tmp_path_factory.mktemp("llava")
    tokenizer = make_tokenizer(directory)
    fields = {"image_processor_type": "CLIPImageProcessor", "size": 8, "crop_size": 8}
    (directory / "preprocessor_config.json").write_text(json.dumps(fields))
    config = LlavaConfig(
        vision=VisionConfig(dim=8, heads=2, layers=2, image_size=(8, 8), patch_size=(4, 4)),
        language=DecoderConfig(dim=8, layers=1, vocab_size=400, pad_id=0, max_length=4096),
        image_id=tokenizer.control_tokens["<image>"],
        depths=(1,),
    )
    return hub.Processor(tokenizer, hub.read_image_processor(directory), config)


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_pictures_take_their_tokens_and_are_never_trained_or_cut(llava, template):
    record = LONG._replace(images=(png(8, 8), png(16, 9)))
    settings = encoder(
        llava.tokenizer, template=template, processor=llava, length=60, truncate="left"
    )
    example = only(settings.encode([record]))
    marks = example["ids"] == llava.config.image_id
    assert marks.sum() == 2 * 4  # (8 / 4)² patches of each
    assert not example["trained"][marks].any()
    assert example["pixels"].shape == (2, 3, 8, 8)
    assert trained_texts(example, llava.tokenizer)[0][0] == "Short."
    assert len(example["ids"]) <= 60


def test_a_corrupt_picture_is_refused_or_left_out(llava):
    record = ask("What?", "This.", images=(png(8, 8)[:40],), place="x.json")
    settings = encoder(llava.tokenizer, processor=llava)
    with pytest.raises(ValueError, match=r"x.json: the picture of 40 bytes is corrupt"):
        settings.encode([record])
    skipping = encoder(llava.tokenizer, processor=llava, bad_rows="skip")
    assert len(skipping.encode([record, ask("a", "b")]).skipped) == 1


# ---- The audit


def test_the_audit_finds_answers_that_are_not_what_is_trained(tokenizer):
    settings = encoder(tokenizer)
    made = settings.encode([ask("Why?", "So.", place="a"), ask("Why?", "So.", place="b")])
    made.examples[1]["trained"][-2] = 0
    (fault,) = find_lost_answers(made, [ask("Why?", "So.", place="x")] * 2, settings)
    assert fault.startswith("x: ['So.'] was to be trained, but")
