"""Directories of adapters that may be read: those under one root, and nothing that leads out."""

from __future__ import annotations

from pathlib import Path

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
        try:
            return self._find(path)
        except (OSError, ValueError, RuntimeError) as error:  # too long, a null, links in a circle
            raise ApiError(400, f"{path[:80]!r} is no path", param="lora_path") from error

    def names(self) -> list[str]:
        """The directories of adapters directly under the root, by name."""
        return sorted(file.parent.name for file in self.path.glob(f"*/{CONFIG}"))

    def _find(self, path: str) -> Path:
        directory = self._resolve(path, path)
        if not directory.is_dir():
            raise ApiError(404, f"no directory {path!r}{self._names()}", param="lora_path")
        for name in (CONFIG, WEIGHTS):
            file = self._resolve(str(directory / name), path)
            if not file.is_file():
                raise ApiError(404, f"{path!r} has no {name}", param="lora_path")
            size = file.stat().st_size
            if size > self.file_bytes:
                raise ApiError(
                    400,
                    f"{name} of {path!r} is {size} bytes, and the limit {self.file_bytes}",
                    param="lora_path",
                )
        return directory

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
