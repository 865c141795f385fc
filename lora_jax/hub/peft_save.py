"""Saving factors as an adapter of PEFT."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lora_jax.hub.hashes import hash_params
from lora_jax.hub.names import Names
from lora_jax.hub.peft_config import find_patterns, find_targets
from lora_jax.hub.peft_files import PREFIX, WEIGHTS, write_adapter
from lora_jax.hub.peft_form import Adapter
from lora_jax.hub.peft_lora import plain_number
from lora_jax.hub.peft_modules import (
    AUTO,
    CONV1D,
    EXPERTS,
    TABLE,
    Layout,
    Module,
    find_layout,
    leaves_of,
)
from lora_jax.hub.peft_sites import Sorted, owner_of, sort_sites, wrappers
from lora_jax.hub.peft_whole import HEADS, Saved, is_head, write_whole
from lora_jax.lifting import Lifted
from lora_jax.lifting.site import check_arrays
from lora_jax.methods import DoRA

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
    base = None if params is None else dict(leaves_of(params))
    shapes = {path: leaf.shape for path, leaf in (base or {}).items()}
    shapes |= {site.path: site.shape for site in lifted.sites}
    layout = find_layout(lifted.function, shapes, config=config, names=names, task_type=task_type)
    sites = sort_sites(lifted, layout, factors)
    if task_type == AUTO and (base is None or any(is_head(m, layout) for m in sites.parts)):
        layout = layout._replace(task_type=_without_head(layout.task_type))
    adapters = {
        module: sites.form.write(module, parts, base) for module, parts in sites.parts.items()
    }
    adapted = {name for by_name in adapters.values() for name in by_name}
    added = {site.path: np.asarray(factors[site.path]["d"]) for site in sites.whole}
    saved = write_whole(layout, added, adapted, base)
    fields = _fields(layout, lifted, sites, adapters, saved) | {
        "base_model_name_or_path": base_name,
        "task_type": layout.task_type,
    }
    remarks = {
        "base": None if params is None else hash_params(params),
        "sites": {
            part.site.path: {"ranks": part.ranks, "scales": part.scales}
            for parts in sites.parts.values()
            for part in parts
        },
    }
    tensors = _keyed(layout, adapters) | {PREFIX + k: v for k, v in saved.tensors.items()}
    tensors |= _tied_whole(layout, sites, tensors)
    write_adapter(directory, fields, tensors, remarks)
    return directory


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


def _keyed(layout: Layout, adapters: Adapters) -> dict[str, np.ndarray]:
    """All tensors of adapters by their keys."""
    tensors = {}
    for module, by_name in adapters.items():
        inner = wrappers(module, list(adapters))
        for name, adapter in by_name.items():
            for bare, tensor in adapter.tensors.items():
                tensors[key_of(name + inner, bare)] = tensor
            if is_tied(module, layout):
                tensors |= tied_twin(layout, adapter)
    return tensors


def key_of(name: str, bare: str) -> str:
    """The key of an adapter's array."""
    tail = ".weight" if bare in ("lora_A", "lora_B") else ""
    return f"{PREFIX}{name}.{bare}{tail}"


def is_tied(module: Module, layout: Layout) -> bool:
    """Whether a module is the embedding that the output head multiplies with as well."""
    row = next(iter(module.rows.values()))
    return module.kind == TABLE and layout.tied is not None and row.path == "embed/embedding"


def tied_twin(layout: Layout, adapter: Adapter) -> dict[str, np.ndarray]:
    """The adapter of an embedding once more, as that of the head that is tied to it."""
    if set(adapter.tensors) != {"lora_embedding_A", "lora_embedding_B"}:
        raise ValueError("PEFT ties only LoRA's factors of an embedding and its head")
    a, b = adapter.tensors["lora_embedding_A"], adapter.tensors["lora_embedding_B"]
    return {
        key_of(str(layout.tied), "lora_A"): b.T,
        key_of(str(layout.tied), "lora_B"): a.T,
    }


def _tied_whole(
    layout: Layout, sites: Sorted, tensors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """An embedding that is trained whole, once more as the head that is tied to it."""
    for site in sites.whole:
        module, _ = owner_of(site, layout)
        if is_tied(module, layout):
            return {f"{PREFIX}{layout.tied}.weight": tensors[f"{PREFIX}{module.name}.weight"]}
    return {}


def _fields(
    layout: Layout, lifted: Lifted, sites: Sorted, adapters: Adapters, saved: Saved
) -> dict[str, Any]:
    targets = find_targets(layout, {module: list(found) for module, found in adapters.items()})
    methods = [parts[0].site.method for parts in sites.parts.values()]
    rs = all(getattr(method, "rs", False) for method in methods)
    ranks, alphas = (
        find_patterns(
            layout,
            {
                module: {name: value(one) for name, one in by_name.items()}
                for module, by_name in adapters.items()
            },
        )
        for value in (lambda one: one.rank, lambda one: _alpha(one, rs))
    )
    dropouts = Counter(method.dropout for method in methods)
    experts = any(module.kind == EXPERTS for module in adapters)
    trained = [*adapters, *(owner_of(site, layout)[0] for site in sites.whole)]
    tied = any(is_tied(module, layout) for module in trained)
    return {
        "peft_type": sites.form.peft_type,
        "r": ranks[0],
        "lora_alpha": alphas[0],
        "rank_pattern": ranks[1],
        "alpha_pattern": alphas[1],
        "target_modules": targets.modules,
        "target_parameters": targets.parameters or None,
        "layers_to_transform": targets.layers,
        "use_rslora": rs,
        "use_dora": any(isinstance(method, DoRA) for method in methods),
        "fan_in_fan_out": any(module.kind == CONV1D for module in adapters),
        # PEFT refuses dropout together with experts; it matters to further training alone.
        "lora_dropout": 0.0 if experts else dropouts.most_common(1)[0][0],
        "bias": saved.bias,
        "modules_to_save": saved.modules or None,
        "trainable_token_indices": None,
        "ensure_weight_tying": tied,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _alpha(adapter: Adapter, rs: bool) -> float:
    """What PEFT divides by the rank, or its root, to get the scale."""
    return plain_number(adapter.scale * (math.sqrt(adapter.rank) if rs else adapter.rank))
