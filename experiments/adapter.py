"""The adapter of a run: the method that its config names, and PEFT's files before and after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from lora_jax import hub, training
from lora_jax.methods import method_fields

SHARED = ("rank", "alpha", "dropout")  # settings that every config has, whatever its method


def method_of(config: ConfigDict) -> lora.Method:
    """The method of a config, without those settings of every config that it has no use for."""
    name, fields = config.method.name, config.method.to_dict()
    unused = set(SHARED) - set(method_fields(name))
    return lora.make_method(**{key: fields[key] for key in fields if key not in unused})


def describe(config: ConfigDict, lifted: lora.Lifted | None) -> str:
    """Describes the adapter, and says which settings its method has no use for."""
    if lifted is None:
        return f"no adapter: {config.train}"
    name = config.method.name
    unused = [field for field in SHARED if field not in method_fields(name)]
    return f"{lifted}\n{name} has no {', '.join(unused)}: not used" if unused else str(lifted)


def start_from(config: ConfigDict, lifted: lora.Lifted | None, variables: Any) -> dict[str, Any]:
    """Puts the factors that the config names in the place of new ones.

    Raises:
      FileNotFoundError: a file is not there.
      ValueError: they do not fit, or there is no adapter to start from them.
    """
    if not config.adapter:
        return dict(variables)
    if lifted is None:
        raise ValueError(f"adapter = {config.adapter!r}, but train = {config.train!r} has none")
    found, new = hub.load_peft(config.adapter, lifted), variables["adapter"]
    placed = jax.tree.map(lambda x, place: jax.device_put(x, place.sharding), found, new)
    return {**variables, "adapter": placed}


def save(
    console: Console, workdir: Path, config: ConfigDict, lifted: lora.Lifted | None, variables: Any
) -> None:
    """Writes the factors as PEFT's files, if PEFT has a form for them, and says so or why not."""
    if lifted is None:
        return
    factors, path = training.gather_whole(variables["adapter"]), workdir / "adapter"
    if training.is_first():
        try:
            hub.save_peft(path, lifted, factors, base_name=config.model.path, overwrite=True)
        except ValueError as error:
            console.print(f"no adapter is written in PEFT's form: {error}", markup=False)
