"""Text to model that every Python carries: the prose and the code of its standard library.

The prose is that of the language reference (`pydoc_data.topics`); the code is the modules' source.
Both are cut into documents at blank lines. A hash of the topic or of the file puts all its
documents on one side.
"""

from __future__ import annotations

import importlib
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from lora_jax.data.split import hold_out
from lora_jax.data.text_task import TextRecord, TextTask

TEST_SHARE = 0.1
LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "__pycache__", "pydoc_data"})


def stdlib_prose(*, characters: int = 1000) -> TextTask:
    """Makes the task of modelling the prose of the language reference.

    Args:
      characters: of a document at most, unless one paragraph has more.

    Raises:
      ValueError: fewer than 1 character.
    """
    topics = importlib.import_module("pydoc_data.topics").topics
    documents = ((f"pydoc_data.topics, {name}", text) for name, text in sorted(topics.items()))
    return _task("stdlib_prose", "the language reference", documents, characters)


def stdlib_code(*, characters: int = 1000, stdlib: str | Path | None = None) -> TextTask:
    """Makes the task of modelling the source of the standard library, tests left out.

    Args:
      characters: as of `stdlib_prose`.
      stdlib: the standard library's directory; that of the running Python by default.

    Raises:
      ValueError: fewer than 1 character, or a directory without source.
    """
    root = Path(stdlib or sysconfig.get_path("stdlib"))
    return _task("stdlib_code", "the standard library's source", _sources(root), characters)


def split_at_blank_lines(text: str, characters: int) -> Iterator[str]:
    r"""Cuts a text into documents, each as many whole paragraphs as fit.

    Args:
      text: any text.
      characters: of a document at most, unless one paragraph has more.

    Yields:
      Documents; joined by blank lines they are the text, but for blanks at its ends.

    >>> list(split_at_blank_lines("one\n\ntwo\n\nthree", 8))
    ['one\n\ntwo', 'three']
    """
    document = ""
    for paragraph in text.strip().split("\n\n"):
        longer = f"{document}\n\n{paragraph}" if document else paragraph
        if document and len(longer) > characters:
            yield document
            document = paragraph
        else:
            document = longer
    yield document


def _sources(root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if not LEFT_OUT.intersection(parts):
            try:
                yield "/".join(parts), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:  # a few test the declaration of other encodings
                continue


def _task(name: str, what: str, documents: Iterator[tuple[str, str]], characters: int) -> TextTask:
    if characters < 1:
        raise ValueError(f"documents of {characters} characters")
    records = [
        TextRecord((), part, place=place)
        for place, text in documents
        for part in split_at_blank_lines(text, characters)
        if part.strip()
    ]
    name_of: Callable[[TextRecord], str] = lambda record: record.place
    train, test = hold_out(records, name_of, TEST_SHARE)
    if not train or not test:
        raise ValueError(f"{len(train)} documents to train on and {len(test)} to test on")
    about = f"Documents of {what}, of which a hash of the topic or file holds a tenth back."
    return TextTask(name, about, train, test, metrics=(), max_new_tokens=0)
