"""Identity of files and of parameters."""

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


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
        digest.update(f"{path} {leaf.dtype.name} {leaf.shape}\n".encode())
        for part in _parts(leaf):
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _parts(array: Any) -> Iterator[np.ndarray]:
    """An array; or, where other processes hold some of it, one layer of its stack after another."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        yield np.asarray(array)
        return
    sharding: Any = array.sharding
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    gather = partial(jax.jit, out_shardings=everywhere)
    if array.ndim < 3:
        yield np.asarray(gather(lambda x: x)(array))
        return
    one_layer = gather(lambda x, i: x[i])
    for layer in range(len(array)):
        yield np.asarray(one_layer(array, layer))


def check_file(path: Path, sha256: str) -> None:
    """Checks that a file is the one that was meant.

    Raises:
        ValueError: its sha256 differs.
    """
    found = hash_file(path)
    if found != sha256.lower():
        raise ValueError(f"{path} has sha256 {found}, but {sha256} was asked for")
