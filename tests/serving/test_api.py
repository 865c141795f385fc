"""The official client of OpenAI against a server: the same texts as offline, and its own errors."""

import httpx2
import openai
import pytest

from tests.serving import tiny
from tests.serving.tiny import DRAWN, GREEDY, NAMES, NEW, Wanted

PROMPTS = ("the mill", "near the sea", "a cheap")
WANTED = [Wanted(NAMES[i % 2] if i % 3 else "base", PROMPTS[i % 3], i) for i in range(6)]


def client(address, **options):
    """The official client; all are closed when the tests have ended."""
    http = httpx2.Client(limits=httpx2.Limits(max_keepalive_connections=0))
    tiny.CLIENTS.append(http)
    options = {"api_key": "none", "max_retries": 0, "http_client": http} | options
    return openai.OpenAI(base_url=f"{address}/v1", **options)


@pytest.fixture(scope="module")
def served(model, engine, root):
    with tiny.server(model, engine, root, names=NAMES) as (service, address):
        yield service, client(address)


def complete(api, wanted, **options):
    return api.completions.create(
        model=wanted.model, prompt=wanted.prompt, seed=wanted.seed, **{"max_tokens": NEW} | options
    )


def test_the_base_and_its_adapters_are_listed(served):
    _, api = served
    models = {one.id: one for one in api.models.list()}
    assert [*models] == ["base", *NAMES]
    assert models["a1"].parent == "base"
    assert models["base"].parent is None
    assert api.models.retrieve("a2") == models["a2"]


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
def test_every_completion_is_the_offline_one_of_its_seed(served, offline, sampling):
    _, api = served
    texts = offline.texts(WANTED, **sampling)
    assert len({text.text for text in texts}) > 3
    for wanted, text in zip(WANTED, texts, strict=True):
        found = complete(api, wanted, **sampling)
        (choice,) = found.choices
        assert choice.text == text.text
        assert choice.finish_reason == ("stop" if text.finished else "length")
        usage = found.usage
        assert usage.completion_tokens == len(text.tokens)
        assert usage.total_tokens - usage.prompt_tokens == len(text.tokens)
        assert found.model == wanted.model


def test_a_stream_is_the_same_text_in_pieces(served, offline):
    _, api = served
    texts = offline.texts(WANTED, **DRAWN)
    for wanted, text in zip(WANTED, texts, strict=True):
        options = {"stream": True, "stream_options": {"include_usage": True}}
        *events, last = complete(api, wanted, **DRAWN, **options)
        pieces = [event.choices[0].text for event in events]
        assert "".join(pieces) == text.text
        ends = [event.choices[0].finish_reason for event in events]
        assert ends == [None] * (len(ends) - 1) + ["stop" if text.finished else "length"]
        assert last.choices == []
        assert last.usage.completion_tokens == len(text.tokens)
    assert len(pieces) > 2


def test_a_stop_string_ends_a_text_before_it(served, offline):
    _, api = served
    wanted = WANTED[0]
    (text,) = offline.texts([wanted], **GREEDY)
    stop = text.text[3:5]
    (cut,) = offline.texts([wanted], **GREEDY, stop=(stop,))
    assert len(cut.text) < len(text.text)
    found = complete(api, wanted, temperature=0, stop=[stop])
    assert found.choices[0].finish_reason == "stop"
    assert found.choices[0].text == cut.text
    assert found.usage.completion_tokens == len(cut.tokens)


def test_token_ids_are_a_prompt_too(served, model):
    _, api = served
    (ids,) = model.tokenizer.encode_ragged([PROMPTS[0]])
    of_ids = api.completions.create(model="a0", prompt=ids.tolist(), temperature=0, max_tokens=4)
    of_text = api.completions.create(model="a0", prompt=PROMPTS[0], temperature=0, max_tokens=4)
    assert of_ids.choices[0].text == of_text.choices[0].text


def test_a_chat_goes_through_the_template_of_the_model(served, offline):
    _, api = served
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "sea"}]
    messages = [{"role": "system", "content": "old"}, {"role": "user", "content": parts}]
    asked = Wanted("a1", "s:old;u:the sea;a:", 3)
    (text,) = offline.texts([asked], **DRAWN, special=False)
    options = {"model": "a1", "messages": messages, "seed": 3, **DRAWN}
    whole = api.chat.completions.create(**options, max_completion_tokens=NEW)
    assert whole.choices[0].message.content == text.text
    assert whole.choices[0].message.role == "assistant"
    events = list(api.chat.completions.create(**options, max_tokens=NEW, stream=True))
    assert events[0].choices[0].delta.role == "assistant"
    assert "".join(event.choices[0].delta.content for event in events) == text.text
    assert events[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    longest = api.chat.completions.create(model="base", messages=messages, temperature=0)
    assert longest.usage.completion_tokens <= tiny.ROOM - tiny.LENGTH + 1


def test_errors_are_those_of_the_client(served):
    _, api = served
    with pytest.raises(openai.NotFoundError, match=r"no model 'a9'; nearest: 'a\d'") as error:
        complete(api, Wanted("a9", "the"))
    assert error.value.code == "model_not_found"
    assert error.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        complete(api, Wanted("a9", "the"), stream=True)
    with pytest.raises(openai.NotFoundError):
        api.models.retrieve("../a1")
    with pytest.raises(openai.BadRequestError, match="the prompt is 17 tokens, and the longest"):
        complete(api, Wanted("a1", [9] * 17))
    with pytest.raises(openai.BadRequestError, match=r"max_tokens = 26; .* it is at most 25"):
        complete(api, Wanted("a1", [9] * 8), max_tokens=26)
    with pytest.raises(openai.BadRequestError, match="no robots"):
        api.chat.completions.create(model="a1", messages=[{"role": "robot", "content": "?"}])


def test_a_token_is_asked_for(model, engine):
    with tiny.server(model, engine, token="a secret of ours") as (_, address):
        good = client(address, api_key="a secret of ours")
        assert [one.id for one in good.models.list()] == ["base"]
        for key in ("a secret of yours", "a secret of ours2", "a secret of our"):
            with pytest.raises(openai.AuthenticationError, match="wants its token") as error:
                client(address, default_headers={"Authorization": f"Bearer {key}"}).models.list()
            assert "ours" not in str(error.value.body)
