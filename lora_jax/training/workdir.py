"""The directory of a run: writable, of this experiment only, its files never torn."""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from lora_jax.training.identity import Config, as_json, differences

Resume = Literal["auto", "never", "must"]

CONFIG = "config.json"
LOCK = ".lock"


def open_workdir(path: str | Path, config: Config, ignore: Sequence[str] = ()) -> Path:
    """Makes the directory of a run, or opens it again to resume.

    Args:
      path: the directory; it and its parents are made if absent.
      config: the run's whole configuration, written to `config.json`. A directory that holds
        another one is refused, so that two experiments never mix.
      ignore: top-level fields of the config that may differ on resume.

    Returns:
      The directory.

    Raises:
      ValueError: the directory belongs to another experiment (the fields that differ are named),
        or holds files and no `config.json`.
      OSError: it cannot be written.
    """
    directory = Path(path)
    if (directory / CONFIG).exists():
        _check_same_experiment(directory, config, ignore)
    elif directory.is_dir() and any(path.name[0] != "." for path in directory.iterdir()):
        raise ValueError(
            f"{directory} has files but no {CONFIG}: it is no run's directory. "
            f"Choose a new or empty one."
        )
    check_writable(directory)
    write_json(directory / CONFIG, config)
    return directory


def check_resume(path: str | Path | None, resume: Resume) -> None:
    """Checks that a run may go on, or begin, before anything is loaded for it.

    Args:
      path: the directory of the run; `None` for a run without one, which is always new.
      resume: `auto`, either; `never`, only begin; `must`, only go on.

    Raises:
      ValueError: it may not.
    """
    if path is None:
        return
    directory = Path(path) / "checkpoints"
    # By their names, for Orbax cleans up in a directory that it opens, and here nothing may change.
    found = [int(path.name) for path in directory.glob("*") if path.name.isdigit()]
    if resume == "must" and not found:
        raise ValueError(f"resume = 'must', and {directory} holds no checkpoint")
    if resume == "never" and found:
        raise ValueError(
            f"resume = 'never', and {directory} holds a checkpoint of step {max(found)}: "
            f"choose another workdir, or remove this one"
        )


@contextlib.contextmanager
def locked(directory: Path | None) -> Iterator[None]:
    """Keeps other processes from training in a directory.

    The kernel holds the lock and drops it with the process, however that ends: the file `.lock`
    that stays behind locks nothing.

    Args:
      directory: of the run; `None` locks nothing.

    Raises:
      OSError: a process that is still alive trains there.
    """
    if directory is None:
        yield
        return
    with (directory / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise OSError(
                f"{directory} is in use by {file.read().strip() or 'another process'}. "
                f"Wait for it, stop it, or choose another workdir."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


def check_writable(directory: Path, needed: int = 0) -> None:
    """Checks, before any work, that a directory can be made and written.

    Args:
      directory: made, with its parents, if absent.
      needed: bytes that must be free.

    Raises:
      OSError: read-only, not permitted, not a directory, or too full; the message says which.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise explained(error, directory) from error
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise OSError(
            f"{directory} has {free / 2**20:.1f} MiB free, and the checkpoints need "
            f"{needed / 2**20:.1f} MiB. Free some space or choose another workdir."
        )


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file in one piece: a reader finds the old file or the new one, never a part.

    Args:
      path: the file, replaced if present.
      value: what to write; what JSON lacks becomes text.

    Raises:
      OSError: it cannot be written. The old file is then still there, and no temporary one.
    """
    write_text(path, json.dumps(as_json(value), indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file in one piece; see `write_json`."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise explained(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_same_experiment(directory: Path, config: Config, ignore: Sequence[str]) -> None:
    differ = differences(json.loads((directory / CONFIG).read_text()), config, ignore)
    if differ:
        raise ValueError(
            f"{directory} belongs to another experiment: {'; '.join(differ)}. Choose another "
            f"workdir, or the settings in its {CONFIG} to resume it."
        )


def explained(error: OSError, path: Path) -> OSError:
    """Says what could not be written, and what to do."""
    return OSError(error.errno, f"cannot write {path}: {error.strerror}. Choose another workdir.")
