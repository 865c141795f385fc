"""Directories of adapters that may be read: those under one root, and nothing that leads out."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lora_jax.hub.peft_files import CONFIG, WEIGHTS
from lora_jax.serving.errors import ApiError


class AdapterRoot:
    """The directory under which adapters lie.

    Args:
      path: of the directory.
      file_bytes: how large an adapter's file may be.

    Raises:
      ValueError: it is no directory.
    """

    def __init__(self, path: str | Path, *, file_bytes: int) -> None:
        self.path = Path(path).expanduser().resolve()
        self.file_bytes = file_bytes
        if not self.path.is_dir():
            raise ValueError(f"the root of adapters, {self.path}, is not a directory")

    def find(self, path: str) -> Path:
        """The real directory of an adapter whose files are under the root, links followed.

        Args:
          path: relative to the root, or absolute and under it.

        Raises:
          ApiError: it leads out of the root, there is no adapter, or it is too large.
        """
        directory, _ = self._find(path)
        return directory

    @contextlib.contextmanager
    def copied(self, path: str) -> Iterator[tuple[Path, Path]]:
        """A copy of an adapter's files, which nobody rewrites or replaces while they are read.

        Args:
          path: as of `find`.

        Returns:
          The directory of the copy, which goes at the end, and that of the original from the root.

        Raises:
          ApiError: as of `find`, or a file has changed since it was found.
        """
        directory, files = self._find(path)
        with tempfile.TemporaryDirectory(prefix="lora_jax-") as room:
            for name, file in files.items():
                with self._open(file, path) as source, (Path(room) / name).open("wb") as copy:
                    self._copy(source, copy, name, path)
            yield Path(room), directory.relative_to(self.path)

    def names(self) -> list[str]:
        """The directories of adapters directly under the root, by name."""
        return sorted(file.parent.name for file in self.path.glob(f"*/{CONFIG}"))

    def _find(self, path: str) -> tuple[Path, dict[str, Path]]:
        """The real directory of an adapter, and its real files by name."""
        try:
            directory = self._resolve(path, path)
            if not directory.is_dir():
                near = self._names()
                raise ApiError(404, f"no directory {path[:80]!r}{near}", param="lora_path")
            files = {n: self._resolve(str(directory / n), path) for n in (CONFIG, WEIGHTS)}
            for name, file in files.items():
                if not file.is_file():
                    raise ApiError(404, f"{path[:80]!r} has no {name}", param="lora_path")
                self._check_size(file.stat().st_size, name, path)
        except (OSError, ValueError, RuntimeError) as error:  # too long, a null, links in a circle
            raise ApiError(400, f"{path[:80]!r} is no path", param="lora_path") from error
        return directory, files

    def _check_size(self, size: int, name: str, asked: str) -> None:
        if size > self.file_bytes:
            raise ApiError(
                400,
                f"{name} of {asked[:80]!r} is {size} bytes, and the limit {self.file_bytes}",
                param="lora_path",
            )

    def _open(self, file: Path, asked: str) -> BinaryIO:
        """Opens a file whose path had no links, folder by folder: new ones are not followed."""
        *folders, name = file.relative_to(self.path).parts
        try:
            at = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                for folder in folders:
                    inner = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
                    os.close(at)
                    at = inner
                # A pipe that is there by now would else keep us waiting.
                opened = os.open(name, os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
            finally:
                os.close(at)
        except OSError as error:
            raise self._changed(file, asked, error.strerror) from error
        source = os.fdopen(opened, "rb")
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            source.close()
            raise self._changed(file, asked, "it is no file")
        return source

    def _changed(self, file: Path, asked: str, why: str | None) -> ApiError:
        message = f"{file.name} of {asked[:80]!r} cannot be read: {why}"
        return ApiError(400, message, code="bad_adapter", param="lora_path")

    def _copy(self, source: BinaryIO, copy: BinaryIO, name: str, asked: str) -> None:
        size = 0
        while part := source.read(2**20):
            size += len(part)
            self._check_size(size, name, asked)  # it may still grow
            copy.write(part)

    def _resolve(self, path: str, asked: str) -> Path:
        found = (self.path / path).resolve()
        if not found.is_relative_to(self.path):
            raise ApiError(
                403,
                f"{asked[:80]!r} leads out of the root of adapters; give a path under it",
                code="outside_of_root",
                param="lora_path",
            )
        return found

    def _names(self) -> str:
        names = self.names()
        shown = ", ".join(map(repr, names[:8]))
        return f" under the root of adapters, which has {shown}" if names else ""
