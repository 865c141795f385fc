"""Files of text: UTF-8, or an error that says where they are not."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str:
    """Reads a file of UTF-8 text, without its byte-order mark and with its line ends as they are.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: it is not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = content[error.start : error.start + 1].hex()
        raise ValueError(
            f"{path}, line {line}: not UTF-8 text (byte 0x{found}); convert the file"
        ) from error


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a file, which end at line feeds alone.

    `str.splitlines` would also split at characters that occur inside sentences.
    """
    lines = read_text(path).split("\n")
    return [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
