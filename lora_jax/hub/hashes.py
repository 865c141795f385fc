"""Identity of files and of parameters."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np


def hash_file(path: str | Path) -> str:
    """Computes the sha256 of a file, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_params(params: Any) -> str:
    """Computes a sha256 of a tree of arrays that names its paths, types, shapes and values.

    Two trees have the same hash only if every array is bit-identical and bears the same name; the
    order of the keys and the sharding do not matter.

    Args:
        params: nested dicts of arrays.

    Returns:
        64 hexadecimal digits.

    >>> hash_params({"a": np.zeros(2), "b": np.ones(1)})[:8]
    'dd3fed56'
    """
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in sorted((jax.tree_util.keystr(path), leaf) for path, leaf in leaves):
        array = np.asarray(leaf)
        digest.update(f"{path} {array.dtype.name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def check_file(path: Path, sha256: str) -> None:
    """Checks that a file is the one that was meant.

    Raises:
        ValueError: its sha256 differs.
    """
    found = hash_file(path)
    if found != sha256.lower():
        raise ValueError(f"{path} has sha256 {found}, but {sha256} was asked for")
