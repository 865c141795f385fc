"""What a text-to-text task is: conversations whose answers are learnt, and how they are scored."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image

ROLES = ("system", "user", "assistant", "tool")


class Turn(NamedTuple):
    """What one side says in a conversation.

    Attributes:
      role: "system", "user", "assistant" or "tool".
      text: what is said.
    """

    role: str
    text: str


class TextRecord(NamedTuple):
    """What is said before an answer, and the answer.

    Attributes:
      turns: what comes before: mostly one turn of the user, the prompt; none for a text that is
        learnt as it is. Turns of the assistant among them are learnt too.
      answer: what a model shall say.
      references: what counts as right, for metrics; empty where only `answer` does.
      fields: what else a metric needs to know.
      images: pictures, in the order in which they are shown, at the start of the first turn of
        the user: files, or the bytes of files.
      place: file and line that the record comes from, for messages.
    """

    turns: tuple[Turn, ...]
    answer: str
    references: tuple[str, ...] = ()
    fields: Mapping[str, Any] = {}
    images: tuple[Path | bytes, ...] = ()
    place: str = ""

    @property
    def prompt(self) -> str:
        """The texts of the turns before the answer, one below the other."""
        return "\n".join(turn.text for turn in self.turns)

    @property
    def accepted(self) -> tuple[str, ...]:
        """The references, or the answer where there are none."""
        return self.references or (self.answer,)


class TextTask(NamedTuple):
    """A task of answering texts with texts.

    Attributes:
      name: such as "gsm8k".
      about: where the records come from and how they are split.
      train: records to train on.
      test: records to test on; each is one prompt with all its references.
      metrics: keys of `evaluation.METRICS`, the one that counts first; none for texts that are
        learnt as they are.
      max_new_tokens: tokens of most tokenizers that an answer needs at most.
      validation: records to choose between runs by; empty where the source has none.
      skipped: place and fault of each row that was left out, where that was allowed.
    """

    name: str
    about: str
    train: Sequence[TextRecord]
    test: Sequence[TextRecord]
    metrics: tuple[str, ...]
    max_new_tokens: int
    validation: Sequence[TextRecord] = ()
    skipped: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """The metric that counts; the loss, where no text is generated."""
        return self.metrics[0] if self.metrics else "loss"


def ask(prompt: str, answer: str, *, system: str = "", **others: Any) -> TextRecord:
    """Makes the record of one question and its answer.

    Args:
      prompt: what the user says.
      answer: what the model shall say.
      system: what is said to the model before; nothing if empty.
      **others: fields of `TextRecord`.

    >>> ask("1 + 1 =", "2").turns
    (Turn(role='user', text='1 + 1 ='),)
    """
    before = (Turn("system", system),) if system else ()
    return TextRecord((*before, Turn("user", prompt)), answer, **others)


def open_image(image: Path | bytes, place: str = "") -> PIL.Image.Image:
    """Decodes a picture.

    Args:
      image: a file, or the bytes of one.
      place: where the record stands, for messages.

    Returns:
      The picture, as RGB.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is corrupt.
    """
    at = f"{place}: " if place else ""
    name = image if isinstance(image, Path) else f"the picture of {len(image)} bytes"
    if isinstance(image, Path) and not image.is_file():
        raise FileNotFoundError(f"{at}there is no picture {image}")
    try:
        with PIL.Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return opened.convert("RGB")  # reads every byte of it
    except (OSError, SyntaxError) as error:  # Pillow's ways to say that a file is corrupt
        raise ValueError(f"{at}{name} is corrupt: {error}") from error
