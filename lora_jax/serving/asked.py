"""What a request of OpenAI's API asks for, checked as far as it can be without the model."""

from __future__ import annotations

import dataclasses
import secrets
from typing import Any

from lora_jax.serving.errors import ApiError
from lora_jax.serving.fields import Fields, wrong

# Fields that can have one meaning here, and the values that have it beside null.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logit_bias": ({},),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "logprobs": (False,),
}
_NEUTRAL_COMPLETION = _NEUTRAL | {"best_of": (1,), "echo": (False,), "suffix": ("",)}
_NEUTRAL_CHAT = _NEUTRAL | {
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
_MOST_STOPS = 4  # as OpenAI's API
_COLDEST = 1e-6  # logits divided by less may be infinite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A text that a client asks for.

    Attributes:
      model: the name of the base or of an adapter.
      prompt: a text or token ids; for a chat its messages.
      chat: whether the prompt is messages.
      max_tokens: the largest number of new tokens; None: as many as the server gives.
      temperature: 0 takes the likeliest token, as does what is next to nothing.
      top_p: draw among the fewest tokens that together have this probability.
      top_k: draw among so many of the likeliest; 0: among all.
      seed: of the randomness; a random one where the client gave none.
      stop: strings that end the text.
      stream: whether pieces are sent as they come.
      include_usage: whether the last of them is the number of tokens.
    """

    model: str
    prompt: Any
    chat: bool
    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    seed: int
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool


def read_completion(fields: Fields) -> Asked:
    """Reads the body of `/v1/completions`.

    Raises:
      ApiError: something is missing, unknown or not valid.
    """
    prompt = _one_prompt(fields.need("prompt"))
    max_tokens = fields.number("max_tokens", int, 16, 1, 2**31)  # 16: as OpenAI's API
    fields.neutral(_NEUTRAL_COMPLETION)
    return _read_rest(fields, prompt=prompt, chat=False, max_tokens=max_tokens)


def read_chat(fields: Fields) -> Asked:
    """Reads the body of `/v1/chat/completions`.

    Raises:
      ApiError: something is missing, unknown or not valid.
    """
    prompt = _read_messages(fields.need("messages"))
    old = fields.number("max_tokens", int, None, 1, 2**31)
    new = fields.number("max_completion_tokens", int, None, 1, 2**31)
    if None not in (old, new) and old != new:
        raise ApiError(400, f"max_tokens = {old}, but max_completion_tokens = {new}")
    fields.neutral(_NEUTRAL_CHAT)
    return _read_rest(fields, prompt=prompt, chat=True, max_tokens=old if new is None else new)


def _read_rest(fields: Fields, *, prompt: Any, chat: bool, max_tokens: int | None) -> Asked:
    """Reads what both kinds of requests have."""
    options = Fields(_as_object("stream_options", fields.take("stream_options", default={})))
    temperature = fields.number("temperature", float, 1.0, 0, 2)
    stream = fields.take("stream", bool, False)
    include_usage = options.take("include_usage", bool, False)
    if include_usage and not stream:
        raise ApiError(400, "stream_options are for streams alone", param="stream_options")
    asked = Asked(
        model=fields.need("model", str),
        prompt=prompt,
        chat=chat,
        max_tokens=max_tokens,
        temperature=temperature if temperature >= _COLDEST else 0.0,
        top_p=fields.number("top_p", float, 1.0, 1e-6, 1),
        top_k=fields.number("top_k", int, 0, 0, 2**31 - 1),
        seed=fields.number("seed", int, secrets.randbelow(2**31), 0, 2**31 - 1),
        stop=_read_stops(fields.take("stop", default=())),
        stream=stream,
        include_usage=include_usage,
    )
    fields.take("user")  # whose request it is makes no difference
    options.finish()
    fields.finish()
    return asked


def _one_prompt(prompt: Any) -> Any:
    """A text, or a tuple of token ids; a list of one prompt is that prompt."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(type(one) is int for one in prompt):
        return tuple(prompt)
    raise wrong("prompt", prompt, "a text or a list of token ids, one prompt in each request")


def _read_messages(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", messages, "a list of one message or more")
    found = []
    for i, message in enumerate(messages):
        fields = Fields(_as_object(f"messages[{i}]", message))
        one = {"role": fields.need("role", str), "content": _read_content(i, fields)}
        if (name := fields.take("name", str)) is not None:
            one["name"] = name
        fields.neutral({"refusal": (), "tool_calls": ([],), "annotations": ([],)})
        fields.finish()
        found.append(one)
    return found


def _read_content(i: int, fields: Fields) -> str:
    """The text of a message; parts that are texts are joined."""
    content = fields.need("content")
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else [content]:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise wrong(f"messages[{i}].content", part, "a text, or a list of parts of type text")
        texts.append(Fields(part).need("text", str))
    return "".join(texts)


def _read_stops(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else list(stop) if isinstance(stop, list | tuple) else 0
    valid = isinstance(stops, list) and all(isinstance(one, str) and one for one in stops)
    if not isinstance(stops, list) or not valid or len(stops) > _MOST_STOPS:
        raise wrong("stop", stop, f"a text or a list of at most {_MOST_STOPS}, none of them empty")
    return tuple(stops)


def _as_object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(name, value, "an object")
    return value
