"""Texts in the JSON of OpenAI's API: whole, or as the events of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

from lora_jax.serving.asked import Asked
from lora_jax.serving.catalog import Card
from lora_jax.serving.errors import ApiError
from lora_jax.serving.service import Piece


class Answer:
    """The answer to one request.

    Args:
      asked: by the request.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        kind, name = ("chatcmpl", "chat.completion") if asked.chat else ("cmpl", "text_completion")
        self._name = name
        self._fields = {
            "id": f"{kind}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": asked.model,
        }

    def whole(self, text: str, last: Piece) -> dict[str, Any]:
        """The answer with all of the text, of which `last` is the last piece."""
        said = {"message": _message(text)} if self._asked.chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": last.end}
        return {"object": self._name, **self._fields, "choices": [choice], "usage": _usage(last)}

    async def events(
        self, first: Piece, rest: AsyncGenerator[Piece, None]
    ) -> AsyncGenerator[str, None]:
        """The events of a stream; an error that comes too late for a status is the last of them."""
        try:
            if self._asked.chat:
                yield self._event({"delta": _message("")}, None)
            piece = first
            while piece.end is None:
                if piece.text:
                    yield self._event(self._part(piece), None)
                piece = await anext(rest)
            yield self._event(self._part(piece), piece.end)
            if self._asked.include_usage:
                yield _event({**self._chunk, "choices": [], "usage": _usage(piece)})
            yield "data: [DONE]\n\n"
        except ApiError as error:
            yield _event(error.body)

    @property
    def _chunk(self) -> dict[str, Any]:
        name = f"{self._name}.chunk" if self._asked.chat else self._name
        return {"object": name, **self._fields}

    def _part(self, piece: Piece) -> dict[str, Any]:
        return {"delta": {"content": piece.text}} if self._asked.chat else {"text": piece.text}

    def _event(self, part: dict[str, Any], end: str | None) -> str:
        choice = {"index": 0, **part, "logprobs": None, "finish_reason": end}
        return _event({**self._chunk, "choices": [choice]})


def model_json(card: Card) -> dict[str, Any]:
    """A model as `/v1/models` lists it.

    >>> model_json(Card("fr", 0, "french/1", "base"))["parent"]
    'base'
    """
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "lora_jax",
        "root": card.root,
        "parent": card.parent,
    }


def _message(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _usage(last: Piece) -> dict[str, int]:
    prompt, new = last.prompt_tokens, last.new_tokens
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
