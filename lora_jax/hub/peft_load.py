"""Loading an adapter of PEFT as factors, strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from lora_jax.hub.names import Names
from lora_jax.hub.peft_adalora import restore_ranks
from lora_jax.hub.peft_alone import BEFT
from lora_jax.hub.peft_config import check_config, rank_of, scale_of
from lora_jax.hub.peft_files import CONFIG, PREFIX, Found, parse_key, read_adapter
from lora_jax.hub.peft_form import Adapter
from lora_jax.hub.peft_modules import (
    EXPERT_PARAMETERS,
    Base,
    Layout,
    Module,
    find_layout,
    tensor_of,
)
from lora_jax.hub.peft_save import SHARED, hash_of, is_tied, key_of
from lora_jax.hub.peft_sites import Sorted, owner_of, pattern_name, sort_sites, wrappers
from lora_jax.hub.peft_tokens import ROWS, read_rows, rows_key, table_of
from lora_jax.hub.peft_types import check_remarks
from lora_jax.hub.peft_whole import read_whole, whole_key
from lora_jax.lifting import Lifted

_WHOLE = (".weight", ".base_layer.weight")
_PAIRS = re.compile("(lora|hira)_(embedding_)?[ABE]")


def load_peft(
    name_or_path: str | Path,
    lifted: Lifted,
    *,
    params: Any = None,
    config: Any = None,
    names: Names | None = None,
) -> dict[str, dict[str, Any]]:
    """Loads an adapter of PEFT's as factors of a lifted function.

    The lift must be what the adapter was made for; `lift_peft` makes it from the files.

    Args:
        name_or_path: a directory, or a repository of the Hugging Face hub, that holds
            `adapter_config.json` and `adapter_model.safetensors`.
        lifted: the lifted function.
        params: the base; with it an adapter that we wrote for another base is refused. Files that
            hold arrays trained whole cannot be read without.
        config: the config of the model, where the lifted function only calls one.
        names: a table of names, for models that are not of this library.

    Returns:
        Factors in the types that the methods ask for.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is broken, or does not fit the lift; the error counts the tensors that
            match and names those that are missing and unexpected.
    """
    stored = open_adapter(name_or_path)
    base = None if params is None else Base(params)
    shapes = {} if base is None else base.shapes
    shapes |= {site.path: site.shape for site in lifted.sites}
    layout = find_layout(
        lifted.function,
        shapes,
        config=config,
        names=names,
        task_type=stored.fields.get("task_type"),
    )
    sites = sort_sites(lifted, layout)
    if stored.fields["peft_type"] != sites.peft_type:
        raise ValueError(
            f"{stored.file} holds {stored.fields['peft_type']}, but the lift is {sites.peft_type}"
        )
    _check_base(stored, params, base)
    keys = _match(stored, layout, sites, base)
    factors = _read_parts(stored, sites, keys)
    whole = {key: stored.tensors[name] for key, name in keys.items() if isinstance(key, str)}
    factors |= read_whole(layout, sites.whole, whole, base)
    for module, site in sites.rows.items():
        tensor = stored.tensors[keys[module, (), ROWS]]
        factors[site.path] = read_rows(stored.fields, module, site, tensor, base)
    return {
        site.path: {name: jnp.asarray(array) for name, array in factors[site.path].items()}
        for site in lifted.sites
    }


def open_adapter(name_or_path: str | Path) -> Found:
    """Reads an adapter, checks that we know what it means, and undoes what PEFT cut out of it."""
    stored = read_adapter(name_or_path)
    check_config(stored.fields, stored.file.parent / CONFIG)
    check_remarks(stored.remarks, stored.file)
    _check_axes(stored)
    return restore_ranks(stored)


def _check_axes(stored: Found) -> None:
    """Refuses pairs of factors that are no matrices, before anything looks at their sides."""
    for key, tensor in stored.tensors.items():
        pair = key in SHARED.values() or _PAIRS.fullmatch(parse_key(key).array or "")
        if tensor.ndim < (2 if pair else 1):
            raise ValueError(
                f"{key!r} in {stored.file} has shape {tensor.shape}, too few axes for what it is"
            )


def _check_base(stored: Found, params: Any, base: Base | None) -> None:
    wanted: str | None = stored.remarks.get("base")
    found = None if wanted is None else hash_of(params, base)
    if wanted is not None and found is not None and found != wanted:
        raise ValueError(
            f"{stored.file} was made for another base: for params with hash {wanted[:12]}…, but "
            f"these have {found[:12]}… (params of another dtype count as another base)"
        )


def _read_parts(
    stored: Found, sites: Sorted, keys: Mapping[Any, str]
) -> dict[str, dict[str, np.ndarray]]:
    factors: dict[str, dict[str, np.ndarray]] = {}
    form = sites.form
    if form is None:
        return factors
    for module, parts in sites.parts.items():
        adapters: dict[str, Adapter] = {}
        names = form.names(module, parts)
        for place in module.places:
            if (module, place, names[0]) not in keys:
                continue
            found = {bare: keys[module, place, bare] for bare in names}
            rank, scale = rank_and_scale(stored, module, found[names[0]])
            for bare, shape in form.shapes(module, parts, rank).items():
                _check_shape(stored, found[bare], shape)
            tensors = {bare: stored.tensors[key] for bare, key in found.items()}
            tensors |= {bare: stored.tensors[key] for bare, key in SHARED.items() if key in keys}
            adapters[module.at(place)] = Adapter(tensors, rank, scale)
        factors |= form.read(module, parts, adapters)
    return factors


def rank_and_scale(stored: Found, module: Module, key: str) -> tuple[int, float]:
    """What the config says of the module of a key, as the file itself calls it."""
    parsed = parse_key(key)
    name = pattern_name(module, parsed.module.replace(".base_layer", ""))
    rank = rank_of(stored.fields, name)
    if stored.fields["peft_type"] == "LORA" and rank > max(stored.tensors[key].shape):
        raise ValueError(
            f"{stored.file.parent / CONFIG} makes the rank of {name} {rank}, but {key!r} has shape "
            f"{stored.tensors[key].shape}"
        )
    if stored.fields["peft_type"] == "HIRA":
        # PEFT makes the layers of HiRA with `r`, whatever its rank_pattern says.
        rank = stored.tensors[key].shape[0 if str(parsed.array).endswith("A") else 1]
    return rank, scale_of(stored.fields, name, rank)


def _check_shape(stored: Found, key: str, wanted: tuple[int, ...]) -> None:
    found = stored.tensors[key].shape
    if found == wanted:
        return
    why = "it is transposed" if found == wanted[::-1] else "it was made for another base or rank"
    raise ValueError(
        f"{key!r} in {stored.file} has shape {found}, but {wanted} fits the base and {CONFIG}: "
        f"{why}"
    )


# -- which tensor is which


def _match(stored: Found, layout: Layout, sites: Sorted, base: Base | None) -> dict[Any, str]:
    """The keys of the file by what they mean, after checking that they are those of the lift."""
    meant = find_meanings(stored, layout)
    wanted: dict[Any, str] = {}
    for module, parts in sites.parts.items():
        inner = wrappers(module, list(sites.parts))
        for i, place in enumerate(module.places):
            if any(part.ranks[i] for part in parts):
                for bare in sites.form.names(module, parts) if sites.form else ():
                    name = module.at(place) + inner
                    wanted[module, place, bare] = key_of(name, bare, sites.peft_type)
    if sites.peft_type == "VERA":
        wanted |= {key: key for key in SHARED.values()}
    owners = [owner for site in sites.whole if (owner := layout.owner(site.path)) is not None]
    for module, _ in owners:
        for place in module.places:
            wanted[whole_key(module, place)] = PREFIX + whole_key(module, place)
    wanted |= {(module, (), ROWS): PREFIX + rows_key(module) for module in sites.rows}
    _check_tied(stored, layout, sites, meant)
    missing = [key for one, key in wanted.items() if one not in meant]
    unexpected = [
        key
        for one, key in meant.items()
        if one not in wanted and not _is_known(one, key, stored, layout, base)
    ]
    _raise_unless_matched(stored, len(set(meant) & set(wanted)), missing, unexpected)
    return {one: key for one, key in meant.items() if one in wanted}


def _check_tied(stored: Found, layout: Layout, sites: Sorted, meant: Mapping[Any, str]) -> None:
    """Refuses the adapter of an embedding that leaves the head, which is tied to it, as it was."""
    for module in [*sites.parts, *(owner_of(site, layout)[0] for site in sites.whole)]:
        if is_tied(module, layout) and not any(one[0] == "tied" for one in meant):
            raise ValueError(
                f"{stored.file} changes the embedding {module.name} but not {layout.tied}, which "
                "is tied to it here: PEFT keeps them tied with ensure_weight_tying=True"
            )


def find_meanings(stored: Found, layout: Layout) -> dict[Any, str]:
    """The keys of a file by what they mean.

    That is (module, place, array), ("tied", array) for the twin of a tied embedding, the name of a
    tensor that is saved whole, or the key itself if it is unknown.
    """
    meant: dict[Any, str] = {}
    for key in stored.tensors:
        meaning = _meaning(key, stored, layout)
        if meaning in meant:
            raise ValueError(f"{stored.file} holds both {meant[meaning]!r} and {key!r}: the same")
        meant[meaning] = key
    return meant


def _meaning(key: str, stored: Found, layout: Layout) -> Any:
    if key in SHARED.values():
        return key
    parsed = parse_key(key)
    if parsed.array is None:
        if parsed.module == layout.tied:
            return ("tied", parsed.parameter)
        found = layout.find(parsed.module, parsed.parameter)
        return key if found is None else whole_key(*found)
    parameter = "bias" if parsed.array in BEFT.theirs.values() else "weight"
    found = layout.find(table_of(parsed.module), parameter) or _experts(
        parsed.module, stored, layout
    )
    if found is None and parsed.module == layout.tied:
        return ("tied", parsed.array)
    return key if found is None else (*found, parsed.array)


def _experts(name: str, stored: Found, layout: Layout) -> tuple[Module, tuple[int, ...]] | None:
    """The parameter of experts that a name with its wrappers means."""
    targeted = {end.rpartition(".")[2] for end in stored.fields.get("target_parameters") or ()}
    order = [one for one in EXPERT_PARAMETERS if one in targeted]
    depth = name.count(".base_layer")
    if depth >= len(order):
        return None
    return layout.find(name.replace(".base_layer", ""), order[-1 - depth])


def _is_known(meaning: Any, key: str, stored: Found, layout: Layout, base: Base | None) -> bool:
    """Whether a tensor says nothing new: a copy of the base, or the twin of a tied embedding."""
    if isinstance(meaning, str) and base is None:
        return key.endswith(".base_layer.weight")  # PEFT saves embeddings beside their adapters
    if isinstance(meaning, str) and base is not None:
        found = layout.find(*meaning.rsplit(".", 1))
        tensor = stored.tensors[key]
        if found is None or not all(row.path in base for row in found[0].rows.values()):
            return False
        return np.array_equal(tensor, tensor_of(*found, base))
    if isinstance(meaning, tuple) and meaning[0] == "tied":
        return _is_twin(meaning[1], stored.tensors[key], stored, layout)
    return False


def _is_twin(array: str, tensor: np.ndarray, stored: Found, layout: Layout) -> bool:
    """Whether a tensor of the head is that of the embedding, which the head is tied to."""
    table = next((m.name for m in layout.modules if is_tied(m, layout)), "")
    if array == "weight":
        others = [stored.tensors.get(f"{PREFIX}{table}{end}") for end in _WHOLE]
        return any(other is not None and np.array_equal(other, tensor) for other in others)
    twins = {"lora_A": "lora_embedding_B", "lora_B": "lora_embedding_A"}
    other = stored.tensors.get(key_of(table, twins.get(array, "")))
    return other is not None and np.array_equal(other.T, tensor)


def _raise_unless_matched(
    stored: Found, matched: int, missing: list[str], unexpected: list[str]
) -> None:
    if not missing and not unexpected:
        return
    total = len(stored.tensors)
    start = f"{matched} of its {total} tensors match" if matched else "no tensor matches"
    parts = [f"{stored.file} does not fit the lift: {start}"]
    for what, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            parts.append(f"{len(keys)} {what}: {', '.join(keys[:3])}{more}")
    raise ValueError("; ".join(parts))
