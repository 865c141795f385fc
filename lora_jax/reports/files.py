"""Writes a file so that a reader sees the old text or the new one, never half of it."""

import os
from pathlib import Path


def write_text_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in one step, making its directory if there is none.

    Args:
      path: Where to write. An existing file is replaced.
      text: The whole text, written as UTF-8.

    Raises:
      OSError: If the directory cannot be written or the disk is full. The old file is unharmed
        and no other is left behind.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same directory, because only a rename within one file system is atomic.
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
