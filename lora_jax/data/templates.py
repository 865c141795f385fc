"""How a conversation is written down: as plain text, or as a chat model's template has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from lora_jax.data.text_task import TextRecord, Turn
from lora_jax.hub.tokenizer import Tokenizer

TEMPLATES = ("plain", "chat")


class Piece(NamedTuple):
    """A stretch of a written conversation.

    Attributes:
      text: the stretch.
      answer: whether the assistant says it.
      alone: whether an end token stands between it and what comes before.
    """

    text: str
    answer: bool = False
    alone: bool = False


def conversation(record: TextRecord, instruction: str = "") -> tuple[Turn, ...]:
    """All turns of a record, the answer last, after an instruction unless it has one of its own."""
    turns = (*record.turns, Turn("assistant", record.answer))
    if instruction and record.turns and record.turns[0].role != "system":
        return (Turn("system", instruction), *turns)
    return turns


def plain(turns: Sequence[Turn], separator: str, images: Sequence[str] = ()) -> Iterator[Piece]:
    """Writes turns one after another.

    Args:
      turns: the last is the assistant's.
      separator: after each turn that is not the assistant's.
      images: of each picture the token that stands for it; they come before the first turn of the
        user, a line each.

    Yields:
      A piece for each turn.
    """
    shown = "".join(f"{image}\n" for image in images)
    ended = False
    for turn in turns:
        if turn.role == "assistant":
            yield Piece(turn.text, answer=True, alone=ended)
        else:
            yield Piece((shown if turn.role == "user" else "") + turn.text + separator, alone=ended)
            shown = "" if turn.role == "user" else shown
        ended = turn.role == "assistant"


def chat(
    turns: Sequence[Turn], tokenizer: Tokenizer, images: int = 0, *, every: bool = True
) -> Iterator[Piece]:
    """Writes turns by the model's chat template.

    Args:
      turns: the last is the assistant's, the first is not.
      tokenizer: of the model.
      images: number of pictures, which the first turn of the user shows.
      every: whether every turn of the assistant is an answer, or only the last.

    Yields:
      Pieces; together they are what the template makes of the conversation.

    Raises:
      ValueError: the model has no template or its template refuses the conversation; the
        conversation begins with the assistant; or the template does not show answers as they are,
        or writes them otherwise once others follow.
    """
    messages = _messages(turns, images)
    if turns[0].role == "assistant":
        raise ValueError("the conversation begins with the assistant: drop that turn")
    said = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    done = ""
    for i in said if every else said[-1:]:
        before = tokenizer.apply_chat_template(messages[:i], add_generation_prompt=True)
        after = tokenizer.apply_chat_template(messages[: i + 1])
        if not after.startswith(before):  # a template without an opening for the answer
            before = tokenizer.apply_chat_template(messages[:i])
        if not (before.startswith(done) and after.startswith(before)):
            raise ValueError(
                "the chat template writes earlier turns otherwise once later ones follow; learn "
                "the last answer of each conversation alone (train_on='answer'), or split it"
            )
        text = turns[i].text.strip()
        start = after.find(text, len(before))
        if start < 0:
            raise ValueError(f"the chat template does not show the answer {text[:40]!r} as it is")
        opening = after[len(before) : start]
        if opening.strip():  # such as a header that is no part of the answer
            before = after[:start]
        yield Piece(before[len(done) :])
        yield Piece(after[len(before) :], answer=True)
        done = after


def _messages(turns: Sequence[Turn], images: int) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in turns]
    if images:
        first = next((message for message in messages if message["role"] == "user"), None)
        if first is None:
            raise ValueError("a picture is shown in the first turn of the user, but there is none")
        text = {"type": "text", "text": first["content"]}
        first["content"] = [*({"type": "image"} for _ in range(images)), text]
    return messages
