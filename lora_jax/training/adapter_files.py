"""An adapter in PEFT's files, and beside it the head that was trained with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lora_jax import hub
from lora_jax.lifting import Lifted, path_name

HEAD = "head.npz"


def save_adapter(
    directory: Path, base: hub.Pretrained, lifted: Lifted, variables: Mapping[str, Any]
) -> None:
    """Writes an adapter as PEFT does, and the head, which is written first.

    Args:
      directory: where to; what is there is written over.
      base: the model that the adapter is of.
      lifted: its function with the adapter.
      variables: with the trees "adapter" and "head".

    Raises:
      ValueError: PEFT has no form for the adapter.
    """
    directory.mkdir(parents=True, exist_ok=True)
    np.savez(directory / HEAD, allow_pickle=False, **_flat(variables["head"]))
    hub.save_peft(directory, lifted, variables["adapter"], params=base.params, overwrite=True)


def read_adapter(
    directory: Path, base: hub.Pretrained, lifted: Lifted, head: PyTree
) -> dict[str, Any] | None:
    """Reads what `save_adapter` wrote.

    Args:
      directory: where from.
      base: the model that the adapter is of.
      lifted: its function with the adapter.
      head: arrays, or their shapes, in a tree like that of the head.

    Returns:
      `{"adapter", "head"}`, or None if no adapter is there, or not all of it.

    Raises:
      ValueError: the adapter does not fit.
    """
    if not (directory / "adapter_config.json").exists():
        return None
    with np.load(directory / HEAD) as stored:
        leaves = [jnp.asarray(stored[name]) for name in _flat(head)]
    factors = hub.load_peft(directory, lifted, params=base.params)
    return {"adapter": factors, "head": jax.tree.unflatten(jax.tree.structure(head), leaves)}


def _flat(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by path."""
    return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
