"""Where the files of a model, an adapter or a data set are: a directory, the cache, or the hub."""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors

from lora_jax.nearest import nearest

_NEEDED = ["config.json", "model*.safetensors"]
_PATTERNS = [
    *_NEEDED,
    "tokenizer.json",
    "model.safetensors.index.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template*",
    "additional_chat_templates/*",
    # Other forms of tokenizers: not read, but named in errors and kept beside what is saved.
    "*.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
]
_ADAPTER = ["adapter_config.json", "adapter_model.safetensors"]
_REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find_model(name_or_path: str | Path, *, revision: str | None = None) -> Path:
    """Finds the directory that holds the files of a model.

    Args:
        name_or_path: a local directory, or the name of a repository on the Hugging Face hub, which
            is taken from the local cache if it is there and downloaded otherwise.
        revision: branch, tag or commit of the repository.

    Returns:
        A directory.

    Raises:
        FileNotFoundError: there is no such directory, and no such repository can be had.
    """
    return _find(name_or_path, revision, _PATTERNS, needed=_NEEDED, wanted=["tokenizer.json"])


def find_adapter(name_or_path: str | Path, *, revision: str | None = None) -> Path:
    """Finds the directory that holds an adapter in PEFT's files, as `find_model` finds a model."""
    return _find(name_or_path, revision, _ADAPTER, needed=_ADAPTER)


def _find(
    name_or_path: str | Path,
    revision: str | None,
    patterns: Sequence[str],
    *,
    needed: Sequence[str],
    wanted: Sequence[str] = (),
) -> Path:
    """A directory as it is, or a repository: from the cache if it has all that is wanted."""
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    name = str(name_or_path)
    if path.is_file():
        raise FileNotFoundError(f"{path} is a file: give the directory that holds it")
    if path.is_absolute() or name.startswith((".", "~")) or not _REPO_ID.fullmatch(name):
        raise FileNotFoundError(f"no directory {path}{siblings(path)}")

    def snapshot(*, offline: bool) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=list(patterns), local_files_only=offline
            )
        )

    cached = None
    with contextlib.suppress(errors.LocalEntryNotFoundError):
        cached = snapshot(offline=True)
    whole = cached is not None and all(any(cached.glob(pattern)) for pattern in needed)
    if cached is not None and whole and all((cached / file).is_file() for file in wanted):
        return cached
    try:
        return snapshot(offline=False)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise FileNotFoundError(
            f"no directory {name!r} here, and no repository {name!r}{at} on the Hugging Face hub "
            "that you may read"
        ) from error
    except (OSError, errors.LocalEntryNotFoundError) as error:
        if cached is not None and whole:  # without a tokenizer, as vision models are
            return cached
        raise FileNotFoundError(
            f"no directory {name!r} here, {name!r} is not in the local cache of the Hugging Face "
            "hub, and the hub cannot be reached; download it where there is a network "
            f"(`hf download {name}`) and give the path of its directory"
        ) from error


def find_dataset(
    name: str, files: Mapping[str, Sequence[str]], *, revision: str | None = None
) -> Path:
    """Finds the directory that holds the files of a data set of the Hugging Face hub.

    Args:
        name: of its repository.
        files: split -> patterns of the split's files, one of which must match.
        revision: branch, tag or commit.

    Returns:
        A directory: the local cache if every split is there, and else what was downloaded.

    Raises:
        FileNotFoundError: the hub cannot be reached, or has no such repository.
    """

    def snapshot(*, offline: bool) -> Path:
        patterns = [pattern for several in files.values() for pattern in several]
        return Path(
            huggingface_hub.snapshot_download(
                name,
                repo_type="dataset",
                revision=revision,
                allow_patterns=patterns,
                local_files_only=offline,
            )
        )

    with contextlib.suppress(errors.LocalEntryNotFoundError):
        cached = snapshot(offline=True)
        if all(any(any(cached.glob(p)) for p in several) for several in files.values()):
            return cached
    try:
        return snapshot(offline=False)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise FileNotFoundError("no such repository that you may read") from error
    except (OSError, errors.LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"not in the local cache, and the hub cannot be reached; where there is a network: "
            f"`hf download --repo-type dataset {name}`"
        ) from error


def siblings(path: Path) -> str:
    """Names the directories beside a missing one that are spelt alike."""
    if not path.parent.is_dir():
        return f": {path.parent} does not exist either"
    names = [p.name for p in path.parent.iterdir() if p.is_dir()]
    near = nearest(path.name, names, 3, likeness=0.6)
    return f"; near it: {', '.join(near)}" if near else ""


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is not a JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} has no {path.name}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, not a JSON object")
    return content
