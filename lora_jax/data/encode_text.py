"""From conversations to tokens, of which the answers are trained; no answer is lost in silence."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lora_jax.data.names import known
from lora_jax.data.packing import Example
from lora_jax.data.reading import BAD_ROWS
from lora_jax.data.templates import TEMPLATES, Piece, chat, conversation, plain
from lora_jax.data.text_task import TextRecord, Turn, open_image
from lora_jax.hub.encoded import Encoded
from lora_jax.hub.processor import Processor
from lora_jax.hub.tokenizer import Tokenizer

TRUNCATE = ("none", "left", "middle")
TRAIN_ON = ("turns", "answer", "everything")
CUT = " ... "  # where the middle of a prompt is cut out
_AT_ONCE = 256  # records whose texts are tokenised together


class EncodedTexts(NamedTuple):
    """Records as tokens, and what became of those that did not fit.

    Attributes:
      examples: `{"ids", "trained"}` in int32, of any length; of records with pictures `pixels` too.
      rows: index of the record of each example.
      cut: places of the records whose prompts were cut.
      skipped: place and fault of the records that were left out.
    """

    examples: list[Example]
    rows: list[int]
    cut: tuple[str, ...]
    skipped: tuple[str, ...]


class EncodedPrompts(NamedTuple):
    """Prompts as tokens.

    Attributes:
      batch: as `evaluation.generate_text` takes it.
      rows: index of the record of each prompt.
      skipped: place and fault of the records that were left out.
    """

    batch: Encoded
    rows: list[int]
    skipped: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """Encodes the records of a task for a model.

    Args:
      tokenizer: of the model.
      length: most tokens of an example, its images and its end token included.
      template: "plain" writes turns one after another, each answer with an end token; "chat" uses
        the model's chat template.
      separator: what follows each turn that is no answer, in plain text.
      instruction: said before every conversation: by the system of those that have none. It is
        never cut.
      end: the end token of plain answers; empty takes the model's end of text.
      train_on: "turns" are all answers of a conversation, "answer" is the last alone, "everything"
        is every token.
      truncate: what of a record that is too long is cut: "none", the "left" of its longest turn
        that is no answer, or the "middle". Answers and pictures never are.
      bad_rows: "raise" makes a record that cannot be encoded an error: it is too long, holds a
        control token, its answer is empty or its picture corrupt. "skip" leaves it out and counts.
      processor: of a model that reads pictures.

    Raises:
      ValueError: an unknown choice, or a model without end token.
    """

    tokenizer: Tokenizer
    length: int
    template: str = "plain"
    separator: str = "\n"
    instruction: str = ""
    end: str = ""
    train_on: str = "turns"
    truncate: str = "none"
    bad_rows: str = "raise"
    processor: Processor | None = None

    def __post_init__(self) -> None:
        known(self.template, TEMPLATES, "template")
        known(self.train_on, TRAIN_ON, "choice of train_on")
        known(self.truncate, TRUNCATE, "choice of truncate")
        known(self.bad_rows, BAD_ROWS, "choice of bad_rows")
        if self.length < 2:
            raise ValueError(f"length is {self.length}, but an answer and its end take 2 tokens")
        if self.end_id is None:
            known_tokens = ", ".join(self.tokenizer.control_tokens) or "none"
            raise ValueError(
                f"no token {self.end!r} to end answers with; name one with `end`: {known_tokens}"
                if self.end
                else f"the model names no end of text; name a token with `end`: {known_tokens}"
            )

    @functools.cached_property
    def end_id(self) -> int | None:
        """The token that ends an answer in plain text."""
        if self.end:
            return self.tokenizer.control_tokens.get(self.end)
        return self.tokenizer.eos_id

    def encode(self, records: Sequence[TextRecord]) -> EncodedTexts:
        """Encodes records.

        Args:
          records: any number of them.

        Returns:
          The examples, in the order of the records.

        Raises:
          ValueError: a record cannot be encoded and `bad_rows` is "raise"; its place is named.
        """
        found = EncodedTexts([], [], (), ())
        cut, skipped = [], []
        for start in range(0, len(records), _AT_ONCE):
            several = [records[i] for i in range(start, min(start + _AT_ONCE, len(records)))]
            for row, (record, made) in enumerate(
                zip(several, self._encode(several), strict=True), start
            ):
                if isinstance(made, ValueError):
                    fault = f"{record.place}: {made}" if record.place else str(made)
                    if self.bad_rows == "raise":
                        raise ValueError(fault) from made
                    skipped.append(fault)
                    continue
                example, was_cut = made
                found.examples.append(example)
                found.rows.append(row)
                if was_cut:
                    cut.append(record.place)
        return found._replace(cut=tuple(cut), skipped=tuple(skipped))

    def prompts(self, records: Sequence[TextRecord], new_tokens: int) -> EncodedPrompts:
        """Encodes what comes before the last answers, exactly as `encode` does, for generation.

        Args:
          records: any number of them, without pictures: those go through the processor.
          new_tokens: tokens of `length` that are left for an answer. The answers of the records
            are not looked at.

        Returns:
          The prompts, padded on the left.

        Raises:
          ValueError: as `encode`; or no record is left, or one has pictures.
        """
        if any(record.images for record in records):
            raise ValueError("prompts with pictures go through the model's processor")
        train_on = "answer" if self.train_on == "answer" else "turns"
        room = self.length - new_tokens + 2  # the stand-in for an answer and its end
        encoder = dataclasses.replace(self, train_on=train_on, length=room)
        found = encoder.encode([record._replace(answer=".") for record in records])
        if not found.examples:
            raise ValueError(f"no prompt is left of {len(records)}: {'; '.join(found.skipped[:3])}")
        rows = [
            example["ids"][: last_answer(example["trained"]).start] for example in found.examples
        ]
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self.tokenizer.pad_id or 0, np.int32)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, longest - len(row) :], mask[i, longest - len(row) :] = row, 1
        return EncodedPrompts(Encoded(ids, mask, np.zeros_like(ids)), found.rows, found.skipped)

    def _encode(
        self, records: Sequence[TextRecord]
    ) -> Iterator[tuple[dict[str, np.ndarray], bool] | ValueError]:
        """Encodes a few records, tokenising all their texts at once."""
        written: list[list[Piece] | ValueError] = []
        for record in records:
            try:
                written.append(self._write(record))
            except ValueError as error:
                written.append(error)
        texts = [w for w in written if not isinstance(w, ValueError)]
        tokens = iter(self._tokenise(texts))
        for record, pieces in zip(records, written, strict=True):
            if isinstance(pieces, ValueError):
                yield pieces
                continue
            try:
                yield self._fit(record, pieces, next(tokens))
            except (ValueError, FileNotFoundError) as error:
                yield ValueError(str(error).removeprefix(f"{record.place}: "))

    # ---- Writing

    def _write(self, record: TextRecord) -> list[Piece]:
        turns = conversation(record, self.instruction)
        self._check(record, turns)
        marks = self._image_marks(len(record.images))
        if self.template == "plain" or not record.turns:
            return list(plain(turns, self.separator, marks))
        every = self.train_on != "answer"
        return list(chat(turns, self.tokenizer, len(record.images), every=every))

    def _check(self, record: TextRecord, turns: Sequence[Turn]) -> None:
        if not record.answer.strip():
            raise ValueError("the answer is empty")
        if record.images and self.processor is None:
            raise ValueError("the record has a picture, but the model reads none")
        for turn in turns:
            if found := self._control.search(turn.text):
                raise ValueError(
                    f"the text of the {turn.role} holds {found[0]!r}, which is a control token of "
                    "this model"
                )

    @functools.cached_property
    def _control(self) -> re.Pattern[str]:
        tokens = sorted(self.tokenizer.control_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, tokens)) or "(?!)")

    def _image_marks(self, count: int) -> list[str]:
        if not count or self.processor is None:
            return []
        return self.tokenizer.tokens([self.processor.config.image_id]) * count

    # ---- Tokens

    def _tokenise(self, written: Sequence[Sequence[Piece]]) -> list[list[np.ndarray]]:
        """Of each record, the ids of each of its pieces.

        A piece is tokenised as what follows those before it, if that does not change their tokens,
        and on its own if it does: the tokens of a prompt are those it has alone, as generation
        sees it.
        """
        texts: list[str] = []
        for pieces in written:
            before = ""
            for piece in pieces:
                before = piece.text if piece.alone else before + piece.text
                texts.append(before)
        ids = iter(self.tokenizer.encode_ragged(texts, special=False))
        return [self._separate(pieces, [next(ids) for _ in pieces]) for pieces in written]

    def _separate(self, pieces: Sequence[Piece], so_far: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The ids of each piece, from those of the text up to its end."""
        found: list[np.ndarray] = []
        seen = np.zeros(0, np.int32)
        for piece, ids in zip(pieces, so_far, strict=True):
            seen = seen[:0] if piece.alone else seen
            if np.array_equal(ids[: len(seen)], seen):
                found.append(ids[len(seen) :])
                seen = ids
            else:
                found += self.tokenizer.encode_ragged([piece.text], special=False)
                seen = np.concatenate([seen, found[-1]])
        return found

    @functools.cached_property
    def _begin(self) -> np.ndarray:
        """What the model's tokenizer puts before a text."""
        text = "a"
        with_special, bare = (
            self.tokenizer.encode_ragged([text], special=special)[0] for special in (True, False)
        )
        starts = range(len(with_special) - len(bare) + 1)
        found = (i for i in starts if np.array_equal(with_special[i : i + len(bare)], bare))
        return with_special[: next(found, 0)]

    def _assemble(
        self, record: TextRecord, pieces: Sequence[Piece], tokens: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        is_chat = self.template == "chat" and bool(record.turns)
        ids, trained = [np.zeros(0, np.int32) if is_chat else self._begin], []
        trained.append(np.zeros_like(ids[0]))
        others: dict[str, np.ndarray] = {}
        for number, (piece, found) in enumerate(zip(pieces, tokens, strict=True)):
            if record.images and number == self._first_shown(pieces):
                assert self.processor is not None
                images = [open_image(image, record.place) for image in record.images]
                found, others = self.processor.widen(found, images)  # noqa: PLW2901
            mask = np.full(len(found), piece.answer, np.int32)
            if piece.answer:
                found, mask = self._close(found, is_chat=is_chat)  # noqa: PLW2901
            if self.train_on == "answer" and number < len(pieces) - 1:
                mask[:] = 0
            ids.append(found)
            trained.append(mask)
        made = {"ids": np.concatenate(ids), "trained": np.concatenate(trained)}
        if is_chat:  # nothing is to be learnt from what the template writes after the last answer
            stop = int(np.flatnonzero(made["trained"])[-1]) + 1
            made = {name: values[:stop] for name, values in made.items()}
        if self.train_on == "everything":
            made["trained"] = np.ones_like(made["trained"])
        return made | others

    def _first_shown(self, pieces: Sequence[Piece]) -> int:
        mark = self._image_marks(1)[0]
        return next((i for i, piece in enumerate(pieces) if mark in piece.text), -1)

    def _close(self, ids: np.ndarray, *, is_chat: bool) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of an answer with its end, and which of them are trained."""
        if is_chat:
            ends = np.flatnonzero(np.isin(ids, list(self.tokenizer.control_tokens.values())))
            if ends.size:
                mask = np.zeros(len(ids), np.int32)
                mask[: ends[0] + 1] = 1
                return ids, mask
        ids = np.append(ids, np.int32(self.end_id or 0)).astype(np.int32)
        return ids, np.ones(len(ids), np.int32)

    # ---- Length

    def _fit(
        self, record: TextRecord, pieces: Sequence[Piece], tokens: Sequence[np.ndarray]
    ) -> tuple[dict[str, np.ndarray], bool]:
        """An example that is not too long, and whether its prompt was cut."""
        example = self._assemble(record, pieces, tokens)
        excess = 0
        while (over := len(example["ids"]) - self.length) > 0:
            excess += over
            shorter = self._shorten(record, excess) if self.truncate != "none" else None
            if shorter is None:
                cannot = "" if self.truncate == "none" else ", and cutting its prompt does not help"
                raise ValueError(
                    f"{self.length + over} tokens do not fit into {self.length}{cannot}; make "
                    "`length` larger, set `truncate`, or skip such records (bad_rows='skip')"
                )
            pieces = self._write(shorter)
            example = self._assemble(shorter, pieces, self._tokenise([pieces])[0])
        return example, excess > 0

    def _shorten(self, record: TextRecord, tokens: int) -> TextRecord | None:
        """Takes tokens from the longest turn that is no answer; None where it has too few."""
        open_to_it = [i for i, turn in enumerate(record.turns) if turn.role != "assistant"]
        if not open_to_it:
            return None
        longest = max(open_to_it, key=lambda i: len(record.turns[i].text))
        turn = record.turns[longest]
        ids = self.tokenizer.encode_ragged([turn.text], special=False)[0]
        kept = len(ids) - tokens
        if kept < 1:
            return None
        if self.truncate == "left":
            text = self.tokenizer.decode(ids[tokens:])
        else:
            mark = len(self.tokenizer.encode_ragged([CUT], special=False)[0])
            if kept <= mark:
                return None
            head = (kept - mark + 1) // 2
            tail = len(ids) - (kept - mark - head)
            text = self.tokenizer.decode(ids[:head]) + CUT + self.tokenizer.decode(ids[tail:])
        text = text.replace("\ufffd", "")  # half a character at a cut
        turns = list(record.turns)
        turns[longest] = turn._replace(text=text)
        return record._replace(turns=tuple(turns))


def last_answer(trained: np.ndarray) -> slice:
    """Where the last run of trained tokens lies.

    >>> last_answer(np.array([0, 1, 1, 0, 1]))
    slice(4, 5, None)
    """
    return answers(trained)[-1]


def answers(trained: np.ndarray) -> list[slice]:
    """Where the runs of trained tokens lie: one for each answer.

    >>> answers(np.array([0, 1, 1, 0, 1]))
    [slice(1, 3, None), slice(4, 5, None)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(trained), [0]])))
    return [slice(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
