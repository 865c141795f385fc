"""Conversations as people store them: OpenAI's messages, and ShareGPT's lists of who says what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lora_jax.data.text_task import ROLES, TextRecord, Turn

SPEAKERS: Mapping[str, str] = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bot", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    "system": "system",
}
"""Whom ShareGPT's "from" means."""


def from_messages(messages: Any, **others: Any) -> TextRecord:
    """Makes the record of a conversation in OpenAI's form.

    Args:
      messages: each with a "role" and a "content": a text, or a list of parts of texts. Calls of
        tools are written as a JSON list of the functions' names and arguments.
      **others: fields of `TextRecord`.

    Raises:
      ValueError: it has another form, or does not end with the assistant.

    >>> from_messages([{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}])
    TextRecord(turns=(Turn(role='user', text='1 + 1'),), answer='2', references=(), fields={}, \
images=(), place='')
    """
    return _record([_message(message) for message in _list(messages, "messages")], others)


def from_sharegpt(conversation: Any, *, system: str = "", **others: Any) -> TextRecord:
    """Makes the record of a conversation in ShareGPT's form.

    Args:
      conversation: each turn with a "from", a key of `SPEAKERS`, and a "value".
      system: what is said by the system first, where the set keeps that apart.
      **others: fields of `TextRecord`.

    Raises:
      ValueError: as `from_messages`.
    """
    turns = [Turn("system", system)] if system else []
    for turn in _list(conversation, "conversations"):
        speaker, text = str(turn.get("from")), turn.get("value")
        if speaker not in SPEAKERS or not isinstance(text, str):
            raise ValueError(f"expected 'from' and 'value' in {str(turn)[:60]!r}")
        turns.append(Turn(SPEAKERS[speaker], text))
    return _record(turns, others)


def _record(turns: Sequence[Turn], others: Mapping[str, Any]) -> TextRecord:
    *before, last = turns
    if last.role != "assistant":
        raise ValueError(f"the conversation ends with the {last.role}: there is no answer to learn")
    if not any(turn.role == "user" for turn in before):
        raise ValueError("the user says nothing before the answer")
    for turn in turns:
        if not turn.text.strip():
            raise ValueError(f"the {turn.role} says nothing in a turn")
    return TextRecord(tuple(before), last.text, **others)


def _list(value: Any, what: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        raise ValueError(f"{what} are {str(value)[:40]!r}, not a list of objects")
    return value


def _message(message: Mapping[str, Any]) -> Turn:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ValueError(f"role {role!r} is none of {', '.join(ROLES)}")
    if isinstance(content, list):
        kinds = {part.get("type") for part in content}
        if kinds - {"text"}:
            raise ValueError(f"parts of type {', '.join(map(str, kinds))}: only text is read")
        content = "".join(part["text"] for part in content)
    calls = [call.get("function", call) for call in message.get("tool_calls") or ()]
    if calls:
        called = json.dumps([_call(call) for call in calls], ensure_ascii=False)
        content = f"{content}\n{called}" if content else called
    if not isinstance(content, str):
        raise ValueError(f"the content of the {role} is {str(content)[:40]!r}, which is no text")
    return Turn(role, content)


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call with its arguments as an object; some have them as the text of one."""
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError as error:
            raise ValueError(f"the arguments {arguments[:40]!r} of a call are no JSON") from error
    return {"name": call.get("name"), "arguments": arguments}
