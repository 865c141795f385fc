"""AdaLoRA's dropped ranks, which PEFT cuts out of its files.

Which ranks are left stands in the config: `rank_pattern` holds a list of booleans for each module,
one for each rank that it started with. Here an array of a stack has one size, so a rank that is cut
is a rank of zeros: it adds nothing, and no gradient ever moves it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lora_jax.hub.peft_files import CONFIG, PREFIX, Found, parse_key

# PEFT's arrays, and the axis of each that counts ranks.
_RANK_AXIS = {"lora_A": 0, "lora_E": 0, "lora_B": 1}
_VALUES = "lora_E"

Tensors = Mapping[str, np.ndarray]


def cut_ranks(tensors: Tensors) -> tuple[dict[str, np.ndarray], dict[str, list[bool]] | None]:
    """Cuts the ranks that are zero in all arrays of a module.

    Args:
        tensors: of an AdaLoRA adapter, by their keys.

    Returns:
        The tensors, and `rank_pattern`; None if no rank is cut.
    """
    modules = _by_module(tensors)
    kept = {module: _kept(tensors, keys) for module, keys in modules.items()}
    if all(mask.all() for mask in kept.values()):
        return dict(tensors), None
    cut = dict(tensors)
    for module, keys in modules.items():
        for array, key in keys.items():
            cut[key] = np.compress(kept[module], tensors[key], axis=_RANK_AXIS[array])
    return cut, {f"{module}.{_VALUES}": mask.tolist() for module, mask in kept.items()}


def _kept(tensors: Tensors, keys: Mapping[str, str]) -> np.ndarray:
    """Which ranks of a module hold anything but zeros; bool [rank]."""
    used = [tensors[key].any(axis=1 - _RANK_AXIS[array]) for array, key in keys.items()]
    return np.logical_or.reduce(used)


def restore_ranks(stored: Found) -> Found:
    """Puts zeros where ranks were cut, so that all modules have the rank they started with.

    Args:
        stored: an adapter of any type, as its files hold it.

    Returns:
        The same, with tensors of the full rank.

    Raises:
        ValueError: a tensor has not as many ranks as its pattern keeps.
    """
    patterns = stored.fields.get("rank_pattern")
    if stored.fields.get("peft_type") != "ADALORA" or not patterns:
        return stored
    tensors = dict(stored.tensors)
    modules = _by_module(tensors)
    for name, pattern in patterns.items():
        module, kept = name.partition(f".{_VALUES}")[0], np.asarray(pattern, bool)
        for array, key in modules.get(module, {}).items():
            tensors[key] = _spread(stored, key, kept, _RANK_AXIS[array])
    return stored._replace(tensors=tensors)


def _spread(stored: Found, key: str, kept: np.ndarray, axis: int) -> np.ndarray:
    tensor = stored.tensors[key]
    if tensor.shape[axis] != kept.sum():
        raise ValueError(
            f"{key!r} in {stored.file} has shape {tensor.shape}, but rank_pattern of {CONFIG} "
            f"keeps {kept.sum()} of {kept.size} ranks"
        )
    shape = list(tensor.shape)
    shape[axis] = kept.size
    full = np.zeros(shape, tensor.dtype)
    full[kept if axis == 0 else (slice(None), kept)] = tensor
    return full


def _by_module(tensors: Tensors) -> dict[str, dict[str, str]]:
    """The keys of AdaLoRA's arrays by module and array."""
    modules: dict[str, dict[str, str]] = {}
    for key in tensors:
        parsed = parse_key(key)
        if key.startswith(PREFIX) and parsed.array in _RANK_AXIS:
            modules.setdefault(parsed.module, {})[str(parsed.array)] = key
    return modules
