"""Which files a task was read from, so that what was prepared of them can be known to be old."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from lora_jax.data.text_task import TextTask

_NAME = "source_files.json"


class Found(NamedTuple):
    """Files that were looked for in one directory.

    Attributes:
      place: the directory; empty for files that were named one by one.
      patterns: what their names match.
      files: those there were.
    """

    place: str
    patterns: tuple[str, ...]
    files: tuple[str, ...]


_recorder: ContextVar[list[Found] | None] = ContextVar("recorder", default=None)


@contextlib.contextmanager
def recorded() -> Iterator[list[Found]]:
    """Gathers what is read while the context is open."""
    found: list[Found] = []
    token = _recorder.set(found)
    try:
        yield found
    finally:
        _recorder.reset(token)


def match(place: Path, patterns: Sequence[str]) -> list[Path]:
    """Finds the files of the first pattern that matches any, in the order of their names."""
    for pattern in patterns:
        if found := sorted(path for path in place.glob(pattern) if path.is_file()):
            _record(Found(str(place), tuple(patterns), tuple(map(str, found))))
            return found
    return []


def write_source_files(directory: Path, found: Iterable[Found], task: TextTask) -> None:
    """Notes beside what was prepared of a task which files it came from, its pictures among them.

    Args:
      directory: of the prepared version.
      found: what was read to make the task.
      task: the task.
    """
    splits = (task.train, task.validation, task.test)
    images = (image for split in splits for record in split for image in record.images)
    pictures = Found("", (), tuple(str(image) for image in images if isinstance(image, Path)))
    groups = [_signed(group) for group in (*found, pictures) if group.files]
    (directory / _NAME).write_text(json.dumps(groups), encoding="utf-8")


def are_unchanged(directory: Path) -> bool:
    """Whether the files that something was prepared from are as they were.

    Args:
      directory: of the prepared version.

    Returns:
      True if each group of files has the names, sizes and times of change that it had, or is gone
      as a whole: what was prepared does not need it. False if nobody noted which they were.
    """
    note = directory / _NAME
    if not note.is_file():
        return False
    groups = json.loads(note.read_text(encoding="utf-8"))
    return all(_is_unchanged(group) for group in groups)


def _record(found: Found) -> None:
    recorder = _recorder.get()
    if recorder is not None:
        recorder.append(found)


def _signed(group: Found) -> dict[str, Any]:
    files = {file: _signature(Path(file)) for file in group.files}
    return {"place": group.place, "patterns": list(group.patterns), "files": files}


def _is_unchanged(group: dict[str, Any]) -> bool:
    files = group["files"]
    if group["place"]:
        now = [str(path) for path in match(Path(group["place"]), group["patterns"])]
    else:
        now = [file for file in files if Path(file).is_file()]
    return not now or {file: _signature(Path(file)) for file in now} == files


def _signature(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]
