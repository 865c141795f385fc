"""From the files of an adapter to the lift that it was made for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from lora_jax.hub.names import Names
from lora_jax.hub.peft_alone import is_norm
from lora_jax.hub.peft_files import CONFIG, Found, parse_key
from lora_jax.hub.peft_load import find_meanings, load_peft, open_adapter, rank_and_scale
from lora_jax.hub.peft_matrices import MatrixForm
from lora_jax.hub.peft_modules import Base, Layout, Module, find_layout
from lora_jax.hub.peft_save import SHARED
from lora_jax.hub.peft_sites import LN_TUNING, form_of_type
from lora_jax.hub.peft_tokens import ROWS, ids_of
from lora_jax.lifting import Lifted, Method, Weight, lift_weights
from lora_jax.methods import Full, LayerNormTuning, TokenRows


def lift_peft(
    name_or_path: str | Path,
    function: Any,
    params: Any,
    *args: Any,
    config: Any = None,
    names: Names | None = None,
    strict: bool = False,
    **kwargs: Any,
) -> tuple[Lifted, dict[str, dict[str, Any]]]:
    """Lifts a function as an adapter of PEFT's asks for, and loads that adapter.

    Args:
        name_or_path: a directory, or a repository of the Hugging Face hub, that holds
            `adapter_config.json` and `adapter_model.safetensors`.
        function: the model, `function(params, *args, **kwargs)`.
        params: the base.
        *args: example arguments of the function, arrays or shapes.
        config: the config of the model, where the function only calls one.
        names: a table of names, for models that are not of this library.
        strict: as in `lora_jax.lift`.
        **kwargs: example keyword arguments of the function.

    Returns:
        The lifted function and its factors, in the types of the file.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is broken, or is not for this model.
    """
    methods = load_peft_config(name_or_path, function, params, config=config, names=names)

    def pick(weights: Mapping[str, Weight], paths: Sequence[str]) -> dict[str, Method]:
        del paths
        return {path: method for path, method in methods.items() if path in weights}

    lifted = lift_weights(function, params, args, kwargs, pick, strict)
    factors = load_peft(name_or_path, lifted, params=params, config=config, names=names)
    return lifted, factors


def load_peft_config(
    name_or_path: str | Path,
    function: Any,
    params: Any,
    *,
    config: Any = None,
    names: Names | None = None,
) -> dict[str, Method]:
    """Reads which of our weights an adapter of PEFT's adapts, and how.

    Args:
        name_or_path: a directory, or a repository of the Hugging Face hub, that holds
            `adapter_config.json` and `adapter_model.safetensors`.
        function: the model.
        params: the base, or its shapes.
        config: the config of the model, where the function only calls one.
        names: a table of names, for models that are not of this library.

    Returns:
        A method for each path, as `lora_jax.lift` takes them for `targets`.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is broken, or is not for this model.
    """
    stored = open_adapter(name_or_path)
    shapes = Base(params).shapes
    task_type = stored.fields.get("task_type")
    layout = find_layout(function, shapes, config=config, names=names, task_type=task_type)
    adapted, whole = _modules(stored, layout)
    methods: dict[str, Method] = {}
    for module, keys in adapted.items():
        if ROWS in next(iter(keys.values())):
            (row,) = module.rows.values()
            with _naming(stored, row.path):
                methods[row.path] = TokenRows(ids=tuple(ids_of(stored.fields, module)))
            continue
        for number, row in module.rows.items():
            if method := _method(stored, module, number, keys):
                methods[row.path] = method
    norms = stored.fields["peft_type"] == LN_TUNING
    for module in whole:
        if module not in adapted:
            tuned = norms and is_norm(module, layout)
            method = LayerNormTuning() if tuned else Full()
            methods |= {row.path: method for row in module.rows.values()}
    return methods


def _modules(
    stored: Found, layout: Layout
) -> tuple[dict[Module, dict[tuple[int, ...], dict[str, str]]], list[Module]]:
    """The modules that have an adapter, with their keys by layer and array; those saved whole."""
    adapted: dict[Module, dict[tuple[int, ...], dict[str, str]]] = {}
    whole: list[Module] = []
    unknown = []
    for meaning, key in find_meanings(stored, layout).items():
        if key in SHARED.values():
            continue
        if isinstance(meaning, str):
            found = layout.find(*meaning.rpartition(".")[::2])
            if found is None:
                unknown.append(key)
            elif found[0] not in whole:
                whole.append(found[0])
        elif isinstance(meaning[0], Module):
            module, place, bare = meaning
            adapted.setdefault(module, {}).setdefault(place, {})[bare] = key
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise ValueError(
            f"{stored.file} is not for this model, which has no module for "
            f"{', '.join(unknown[:3])}{more}{_left_out(unknown, layout)}"
        )
    return adapted, whole


def _left_out(keys: Sequence[str], layout: Layout) -> str:
    """A hint where checkpoints of the family hold a module that this model was loaded without."""
    names = [layout.names.canonical(f"{parse_key(key).module}.weight") for key in keys]
    if any(re.fullmatch(unused, name) for unused in layout.names.unused for name in names):
        return "; it was loaded without: `hub.load_model` takes head= and the like"
    return ""


def _method(
    stored: Found,
    module: Module,
    number: int,
    keys: Mapping[tuple[int, ...], Mapping[str, str]],
) -> Method | None:
    """The method of a part of a module; None where the file leaves that part alone."""
    path = module.rows[number].path
    ours = stored.remarks.get("sites")
    if isinstance(ours, dict) and path not in ours:
        return None
    form = form_of_type(stored.fields["peft_type"])
    arrays = next(iter(keys.values()))
    dtype = jnp.dtype(stored.tensors[next(iter(arrays.values()))].dtype)
    ranks, scales = [], []
    for place in module.places:
        rank, scale = 0, 0.0
        if place in keys:
            rank, scale = rank_and_scale(stored, module, next(iter(keys[place].values())))
        ranks.append(rank)
        scales.append(scale)
    if isinstance(ours, dict):
        ranks, scales = ours[path]["ranks"], ours[path]["scales"]
    tensors = {bare: stored.tensors[key] for bare, key in arrays.items()}
    with _naming(stored, path):
        method = form.method(stored.fields, tensors, ranks, scales, dtype)
        return form.fitted(method, module, number) if isinstance(form, MatrixForm) else method


@contextlib.contextmanager
def _naming(stored: Found, path: str) -> Iterator[None]:
    """Says of what is wrong with a method where it comes from."""
    try:
        yield
    except ValueError as error:
        where = stored.file.parent / CONFIG
        raise ValueError(f"{where} makes no method for {path!r}: {error}") from error
