"""Whatever is wrong with a request, the answer is an error in OpenAI's form that says what."""

import json
import re

import httpx2
import pytest

from lora_jax.serving import ApiError, Limits
from lora_jax.serving.asked import read_completion
from lora_jax.serving.fields import read_object
from tests.serving import tiny

COMPLETION = {"model": "base", "prompt": "the mill", "max_tokens": 2}
CHAT = {"model": "base", "messages": [{"role": "user", "content": "the"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def http(model, engine):
    with (
        tiny.server(model, engine, limits=Limits(body_bytes=4000)) as (_, address),
        httpx2.Client(base_url=address, timeout=60) as client,
    ):
        yield client


def message(response, status=400):
    """What an error says, after checking its form."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] in {"invalid_request_error", "not_found_error", "authentication_error"}
    return error["message"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": None}, "no 'prompt'"),
        ({"model": None}, "no 'model'"),
        ({"model": 3}, "model = 3; it must be a text"),
        ({"prompt": ""}, "one or more tokens"),
        ({"prompt": ["the", "mill"]}, "one prompt in each request"),
        ({"prompt": {"a": 1}}, "a text or a list of token ids"),
        ({"prompt": []}, "a text or a list of token ids"),
        ({"prompt": [1, True]}, "a text or a list of token ids"),
        ({"prompt": [290]}, "tokens from 0 to 289"),
        ({"prompt": [-1]}, "tokens from 0 to 289"),
        ({"prompt": [10**30]}, "tokens from 0 to 289"),
        ({"prompt": [5] * 17}, "the prompt is 17 tokens, and the longest is 16"),
        ({"prompt": "\ud83d"}, "not JSON: .*surrogates"),
        ({"max_tokens": 0}, "max_tokens = 0; it must be a whole number from 1"),
        ({"max_tokens": 1.5}, "max_tokens = 1.5; it must be a whole number"),
        ({"max_tokens": True}, "max_tokens = true"),
        ({"max_tokens": 1000}, "max_tokens = 1000; after this prompt of .* it is at most 25"),
        ({"temperature": -0.1}, "temperature = -0.1; it must be a number from 0 to 2"),
        ({"temperature": "1"}, 'temperature = "1"'),
        ({"top_p": 0}, "top_p = 0.0"),
        ({"top_k": -1}, "top_k = -1"),
        ({"seed": 2**31}, "seed = 2147483648"),
        ({"stop": [""]}, "stop = .* none of them empty"),
        ({"stop": ["a"] * 5}, "at most 4"),
        ({"stop": 7}, "stop = 7"),
        ({"stream": 1}, "stream = 1; it must be true or false"),
        ({"stream_options": []}, "stream_options = .* an object"),
        ({"stream_options": {"include_usage": True}}, "stream_options are for streams alone"),
        ({"stream_options": {"usage": True}}, "unknown field 'usage'; nearest: 'include_usage'"),
        ({"n": 2}, "n = 2; it must be 1 or null: nothing else is supported"),
        ({"logprobs": 1}, "logprobs = 1"),
        ({"echo": True}, "echo = true"),
        ({"logit_bias": {"5": 100}}, "logit_bias"),
        ({"temprature": 1}, "unknown field 'temprature'; nearest: 'temperature'"),
    ],
    ids=str,
)
def test_a_wrong_completion_is_explained(http, fields, expected):
    body = {k: v for k, v in (COMPLETION | fields).items() if v is not None}
    said = message(post(http, "completions", json.dumps(body)))
    assert re.search(expected, said), said


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"messages": []}, "a list of one message or more"),
        ({"messages": "hello"}, "a list of one message or more"),
        ({"messages": [3]}, r"messages\[0\] = 3; it must be an object"),
        ({"messages": [{"content": "a"}]}, "no 'role'"),
        ({"messages": [{"role": "user"}]}, "no 'content'"),
        ({"messages": [{"role": 1, "content": "a"}]}, "role = 1; it must be a text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "parts of type text",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "no 'text'"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [1]}]}, "nothing else"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "refuses .* no robots"),
        ({"messages": [{"role": "user", "content": "a" * 99}]}, "and the longest is 16"),
        ({"max_completion_tokens": 3}, "max_tokens = 2, but max_completion_tokens = 3"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"prompt": "a"}, "unknown field 'prompt'"),
    ],
    ids=str,
)
def test_a_wrong_chat_is_explained(http, fields, expected):
    said = message(post(http, "chat/completions", json.dumps(CHAT | fields)))
    assert re.search(expected, said), said


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "a JSON list, not an object"),
        ("3", "a JSON int, not an object"),
        (b"\xff\xfe{", "not JSON"),
        ('{"model": "base", "temperature": NaN}', "NaN is no number of JSON"),
        ('{"model": "base", "prompt": "a", "temperature": 1e999}', "from 0 to 2"),
        ('{"seed": ' + "9" * 3900 + "}", "no 'prompt'"),
        ("[" * 3900, "nested too deeply|not JSON"),
        ('{"model": "base", "prompt": "a", "model": "b"}', "the field 'model' twice"),
        (r'{"model": "base", "prompt": {"\ud83d": 1, "\ud83d": 2}}', "the field .* twice"),
    ],
    ids=range(11),
)
def test_a_body_that_is_no_object_is_explained(http, body, expected):
    said = message(post(http, "completions", body))
    assert re.search(expected, said), said


def test_no_depth_of_a_body_is_more_than_a_wrong_request():
    said = set()
    for depth in (*range(1, 1200), 100_000):
        fields = b'{"model": "base", "prompt": ' + b"[" * depth + b"]" * depth + b"}"
        with pytest.raises(ApiError) as error:
            read_completion(read_object(fields))
        assert error.value.status == 400
        said.add(error.value.message[:20])
    assert said >= {"prompt = [[[[[[[[[[[", "the body is nested t"}


def test_a_temperature_next_to_nothing_takes_the_likeliest_tokens(http):
    texts = [
        post(http, "completions", json.dumps(COMPLETION | {"max_tokens": 12, "temperature": t}))
        for t in (0, 1e-40, 5e-324)
    ]
    assert len({text.json()["choices"][0]["text"] for text in texts}) == 1


def test_a_template_that_fails_is_no_fault_of_the_client(http):
    chat = CHAT | {"messages": [{"role": "nought", "content": "the"}]}
    response = post(http, "chat/completions", json.dumps(chat))
    assert response.status_code == 500
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "chat_template_failed")
    assert "fails on this conversation: ZeroDivisionError: " in error["message"]
    assert "/v1/completions takes a text as it is" in error["message"]
    assert post(http, "chat/completions", json.dumps(CHAT)).status_code == 200


def test_bodies_of_other_types_and_too_large_ones_are_refused(http):
    said = message(http.post("/v1/completions", content=json.dumps(COMPLETION)), 415)
    assert "'application/json'" in said
    assert "more than 4000 bytes" in message(post(http, "completions", " " * 4001), 413)
    parts = (b" " * 1000 for _ in range(5))  # sent in chunks, without saying how many
    assert "more than 4000 bytes" in message(post(http, "completions", parts), 413)
    assert post(http, "completions", json.dumps(COMPLETION)).status_code == 200


def test_unknown_routes_methods_and_hosts_are_told(http):
    assert "/v2/models: Not Found" in message(http.get("/v2/models"), 404)
    assert "Not Found" in message(http.get("/v2/models", headers={"Host": "[::1"}), 404)
    assert "Method Not Allowed" in message(http.get("/v1/completions"), 405)
    said = message(http.get("/v1/models", headers={"Host": "evil.example"}), 403)
    assert "not called 'evil.example'" in said
    assert http.get("/v1/models", headers={"Host": "localhost:1"}).status_code == 200


def test_requests_and_tokens_are_counted(http):
    before = counts(http)
    post(http, "completions", json.dumps(COMPLETION | {"prompt": [7, 8, 9], "temperature": 0}))
    post(http, "completions", "")
    http.get("/some/path/of/a/stranger")
    after = counts(http)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    route = 'route="/v1/completions"'
    assert grown[f'lora_jax_requests_total{{{route},status="200"}}'] == 1
    assert grown[f'lora_jax_requests_total{{{route},status="400"}}'] == 1
    assert grown['lora_jax_requests_total{route="none",status="404"}'] == 1
    assert grown['lora_jax_tokens_total{kind="prompt"}'] == 3
    assert grown['lora_jax_tokens_total{kind="new"}'] in {1, 2}
    assert grown["lora_jax_text_seconds_count"] == 1
    assert after["lora_jax_rows_running"] == after["lora_jax_requests_open"] == 0
    assert "stranger" not in http.get("/metrics").text
    assert http.get("/health").json() == {"status": "ok"}


def post(http, path, body):
    kind = {"Content-Type": "application/json; charset=utf-8"}
    return http.post(f"/v1/{path}", content=body, headers=kind)


def counts(http):
    lines = http.get("/metrics").text.splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in samples}
