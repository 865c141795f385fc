"""Saving factors as an adapter of PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lora_jax.hub.hashes import hash_params
from lora_jax.hub.names import Names
from lora_jax.hub.peft_adalora import cut_ranks
from lora_jax.hub.peft_alone import norm_fields, write_norms
from lora_jax.hub.peft_classes import AUTO
from lora_jax.hub.peft_fields import make_fields
from lora_jax.hub.peft_files import PREFIX, WEIGHTS, write_adapter
from lora_jax.hub.peft_form import Adapter, method_of
from lora_jax.hub.peft_modules import (
    TABLE,
    Base,
    Layout,
    Module,
    find_layout,
)
from lora_jax.hub.peft_sites import LN_TUNING, Sorted, owner_of, sort_sites, wrappers
from lora_jax.hub.peft_tokens import rows_field, rows_key, write_rows
from lora_jax.hub.peft_whole import HEADS, is_head, write_whole
from lora_jax.lifting import Lifted
from lora_jax.lifting.site import check_arrays

# Arrays that all modules share.
SHARED = {"vera_A": "base_model.vera_A", "vera_B": "base_model.vera_B"}

Adapters = Mapping[Module, Mapping[str, Adapter]]


def save_peft(
    directory: str | Path,
    lifted: Lifted,
    factors: Mapping[str, Mapping[str, Any]],
    *,
    params: Any = None,
    base_name: str | None = None,
    task_type: str | None = AUTO,
    config: Any = None,
    names: Names | None = None,
    overwrite: bool = False,
) -> Path:
    """Saves factors as an adapter that PEFT loads.

    Sites that are parts of one module of transformers (q and v of GPT-2's `c_attn`) become one
    adapter of that module, whose rank is the sum of theirs unless they share their A. PiSSA and
    the like become plain LoRA of twice the rank.

    Args:
        directory: where to; it is made. An adapter beside others goes to a sub-folder of theirs.
        lifted: the lifted function.
        factors: as `lifted.init` makes them.
        params: the base. With it the file bears its hash, by which loading knows another base, and
            a model for classification its head; what is trained whole cannot be saved without.
        base_name: name or path of the base, for `adapter_config.json`.
        task_type: PEFT's name of the task, such as "CAUSAL_LM"; decides what stands before the
            names of the modules ("FEATURE_EXTRACTION" is the bare model of `AutoModel`). None
            names no task; "auto" takes what the model is for.
        config: the config of the model, where the lifted function only calls one.
        names: a table of names, for models that are not of this library.
        overwrite: replace an adapter that is there already.

    Returns:
        The directory.

    Raises:
        FileExistsError: an adapter is there and `overwrite` is False.
        ValueError: the factors do not fit the lift, or PEFT has no form for a site's method.
    """
    directory = Path(directory).expanduser()
    if (directory / WEIGHTS).exists() and not overwrite:
        raise FileExistsError(f"{directory / WEIGHTS} is there already; overwrite=True replaces it")
    _check_factors(lifted, factors)
    base = None if params is None else Base(params)
    shapes = {} if base is None else base.shapes
    shapes |= {site.path: site.shape for site in lifted.sites}
    layout = find_layout(lifted.function, shapes, config=config, names=names, task_type=task_type)
    sites = sort_sites(lifted, layout, factors)
    if task_type == AUTO and (base is None or any(is_head(m, layout) for m in sites.parts)):
        layout = layout._replace(task_type=_without_head(layout.task_type))
    adapters = {
        module: sites.form.write(module, parts, base) if sites.form else {}
        for module, parts in sites.parts.items()
    }
    adapted = {name for by_name in adapters.values() for name in by_name}
    added = {site.path: np.asarray(factors[site.path]["d"]) for site in sites.whole}
    of_norms = sites.peft_type == LN_TUNING
    saved = (
        write_norms(layout, added, base) if of_norms else write_whole(layout, added, adapted, base)
    )
    touched = [*adapters, *(owner_of(site, layout)[0] for site in sites.whole)]
    fields = make_fields(
        sites.peft_type,
        layout,
        {module: method_of(parts[0].site) for module, parts in sites.parts.items()},
        adapters,
        saved,
        tied=any(is_tied(module, layout) for module in touched),
    ) | {"base_model_name_or_path": base_name}
    if of_norms:
        fields |= norm_fields(layout, touched)
    if sites.rows:
        _check_rows(sites)
        fields["trainable_token_indices"] = rows_field(layout, sites.rows)
    remarks = {
        "base": hash_of(params, base),
        "sites": {
            part.site.path: {"ranks": part.ranks, "scales": part.scales}
            for parts in sites.parts.values()
            for part in parts
        },
    }
    tensors = _keyed(layout, adapters, sites.peft_type)
    if sites.peft_type == "ADALORA":
        tensors, fields["rank_pattern"] = cut_ranks(tensors)
    tensors |= {PREFIX + k: v for k, v in saved.tensors.items()}
    tensors |= _tied_whole(layout, sites, tensors)
    for module, site in sites.rows.items():
        rows = np.asarray(factors[site.path]["rows"])
        tensors[PREFIX + rows_key(module)] = write_rows(module, site, rows, base)
    write_adapter(directory, fields, tensors, remarks)
    return directory


def hash_of(params: Any, base: Base | None) -> str | None:
    """The hash that tells one base from another; None for none, and for a quantised one.

    An adapter that was trained on a quantised base is used on the base itself as well.
    """
    return None if base is None or base.is_quantised else hash_params(params)


def _without_head(task_type: str | None) -> str | None:
    """The task, unless PEFT takes for it that the head is trained whole."""
    return None if task_type in HEADS else task_type


def _check_factors(lifted: Lifted, factors: Mapping[str, Mapping[str, Any]]) -> None:
    if unknown := sorted(set(factors) - {site.path for site in lifted.sites}):
        raise ValueError(f"factors hold {unknown[0]!r}, which this lift does not adapt")
    for site in lifted.sites:
        if site.path not in factors:
            raise ValueError(f"factors have no entry for {site.path!r}, which this lift adapts")
        check_arrays(site, factors[site.path])


def _keyed(layout: Layout, adapters: Adapters, peft_type: str) -> dict[str, np.ndarray]:
    """All tensors of adapters by their keys."""
    tensors: dict[str, np.ndarray] = {}
    for module, by_name in adapters.items():
        inner = wrappers(module, list(adapters))
        for name, adapter in by_name.items():
            for bare, tensor in adapter.tensors.items():
                if bare in SHARED:
                    _share(tensors, bare, tensor)
                else:
                    tensors[key_of(name + inner, bare, peft_type)] = tensor
            if is_tied(module, layout):
                tensors |= tied_twin(layout, adapter)
    return tensors


def _share(tensors: dict[str, np.ndarray], bare: str, tensor: np.ndarray) -> None:
    """Keeps the largest of the projections that all modules share; the others are its corners."""
    key = SHARED[bare]
    before = tensors.get(key, tensor)
    small, large = sorted((before, tensor), key=lambda one: one.size)
    if not np.array_equal(large[: small.shape[0], : small.shape[1]], small):
        raise ValueError(
            "PEFT's VeRA cuts all projections out of one pair, and those of weights of different "
            "shapes are no corners of one here: adapt weights of one shape"
        )
    tensors[key] = large


# Arrays that PEFT holds as the weights of modules of their own.
_WEIGHTS = {
    "LORA": ("lora_A", "lora_B"),
    "GRALORA": ("gralora_A_general", "gralora_B_general"),
}


def key_of(name: str, bare: str, peft_type: str = "LORA") -> str:
    """The key of an adapter's array."""
    tail = ".weight" if bare in _WEIGHTS.get(peft_type, ()) else ""
    return f"{PREFIX}{name}.{bare}{tail}"


def is_tied(module: Module, layout: Layout) -> bool:
    """Whether a module is the embedding that the output head multiplies with as well."""
    row = next(iter(module.rows.values()))
    embedding = row.path in ("embed/embedding", "language/embed/embedding")
    return module.kind == TABLE and layout.tied is not None and embedding


def tied_twin(layout: Layout, adapter: Adapter) -> dict[str, np.ndarray]:
    """The adapter of an embedding once more, as that of the head that is tied to it."""
    if set(adapter.tensors) != {"lora_embedding_A", "lora_embedding_B"}:
        raise ValueError("PEFT ties only LoRA's factors of an embedding and its head")
    a, b = adapter.tensors["lora_embedding_A"], adapter.tensors["lora_embedding_B"]
    return {
        key_of(str(layout.tied), "lora_A"): b.T,
        key_of(str(layout.tied), "lora_B"): a.T,
    }


def _check_rows(sites: Sorted) -> None:
    if sites.peft_type != "LORA":
        raise ValueError(f"PEFT trains rows of tokens beside LoRA, but this is {sites.peft_type}")


def _tied_whole(
    layout: Layout, sites: Sorted, tensors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """An embedding that is trained whole, once more as the head that is tied to it."""
    for site in sites.whole:
        module, _ = owner_of(site, layout)
        if is_tied(module, layout):
            return {f"{PREFIX}{layout.tied}.weight": tensors[f"{PREFIX}{module.name}.weight"]}
    return {}
