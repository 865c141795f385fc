"""The identity of a run: what must be the same for a checkpoint to be its own."""

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
from ml_collections import ConfigDict

from lora_jax.lifting import path_name

Config: TypeAlias = Mapping[str, Any] | ConfigDict
Targets: TypeAlias = Sequence[str] | Mapping[str, Any]

PACKAGES = ("lora_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def describe_run(
    *, base: str, method: Any = None, targets: Targets = (), **extra: Any
) -> dict[str, Any]:
    """Describes a run for its checkpoints, in JSON.

    Args:
      base: identity of the frozen weights: a hash of their file or of their arrays.
      method: the method, a dataclass such as `lora.LoRA(rank=8)`; `None` where nothing is adapted.
      targets: which weights are adapted, as `lora.lift` was told or by their paths.
      **extra: anything else that must be the same on resume, such as `seed=0`.

    Returns:
      `{"base", "method", "targets", ..., "versions"}`. The versions are for the reader: a run may
      resume under newer ones.

    Example:
      >>> describe_run(base="53aa51", targets=["layers/q_proj/kernel"])["targets"]
      ['layers/q_proj/kernel']
    """
    described = {
        "base": base,
        "method": None if method is None else _fields(method),
        "targets": targets,
        **extra,
        "versions": versions(),
    }
    return as_json(described)


def versions() -> dict[str, str]:
    """Lists the versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def shapes(tree: Any) -> dict[str, str]:
    """Lists the arrays of a tree: path -> `float32[8,16]`."""
    leaves = jax.tree.leaves_with_path(tree)
    return {path_name(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}


def differences(
    found: Mapping[str, Any], asked: Mapping[str, Any], ignore: Sequence[str] = ()
) -> list[str]:
    """Compares two descriptions field by field.

    Args:
      found: what is on disk.
      asked: what this run asks for.
      ignore: top-level fields that may differ.

    Returns:
      One phrase for each field that differs; none if the two agree.

    Example:
      >>> differences({"method": {"rank": 8}}, {"method": {"rank": 4}})
      ['method.rank: found 8, asked for 4']
    """
    ours, theirs = _flatten(as_json(asked), ignore), _flatten(as_json(found), ignore)
    names = list(theirs) + [name for name in ours if name not in theirs]
    return [
        f"{name}: found {theirs.get(name, 'nothing')}, asked for {ours.get(name, 'nothing')}"
        for name in names
        if theirs.get(name, _ABSENT) != ours.get(name, _ABSENT)
    ]


_ABSENT = object()


def as_json(value: Any) -> Any:
    """Passes a description through JSON: tuples become lists, and what JSON lacks becomes text."""
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping | ConfigDict) else str(value)


def _fields(method: Any) -> dict[str, Any]:
    return {"name": type(method).__name__, **dataclasses.asdict(method)}


def _flatten(
    tree: Mapping[str, Any], ignore: Sequence[str] = (), prefix: str = ""
) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if name in ignore:
            continue
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, prefix=f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
