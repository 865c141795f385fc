"""What PEFT saves whole beside low-rank factors: heads, norms, biases and rows of tokens.

PEFT holds the trained values W' themselves, we hold what was added to the base, d = W' - W, as any
other update: so the base must be at hand both ways. W + d is W' bit for bit wherever d needs no
rounding, which is where W is zero or W' has its sign and between half and twice its size (Sterbenz'
lemma), as after most training. Elsewhere it is off by at most u·(|d| + |W'|), u = 2⁻²⁴ in fp32.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from lora_jax.hub.peft_config import find_end, names_besides
from lora_jax.hub.peft_modules import Layout, Module, tensor_of
from lora_jax.lifting import Site

# The modules that PEFT trains whole, unasked, for these tasks.
HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score")}

Base = Mapping[str, Any]


class Saved(NamedTuple):
    """What is saved whole.

    Args:
        tensors: by the keys of the file, without their prefix.
        modules: for the field modules_to_save.
        bias: for the field bias: "none", "all" or "lora_only".
    """

    tensors: dict[str, np.ndarray]
    modules: list[str]
    bias: str


def write_whole(
    layout: Layout,
    sites: Mapping[str, np.ndarray],
    adapted: Set[str],
    base: Base | None,
    *,
    with_biases: bool = True,
) -> Saved:
    """The trained values of whole arrays, and how the config calls them.

    Args:
        layout: the modules of the model.
        sites: what was added to arrays of the base, by our paths.
        adapted: the names of the modules that have an adapter, layers written out.
        base: the base by our paths.
        with_biases: whether PEFT's method trains biases without their modules too.

    Raises:
        ValueError: the base is not given, or PEFT cannot hold a choice of biases.
    """
    owners = [owner for path in sites if (owner := layout.owner(path)) is not None]
    touched = list(dict.fromkeys(module for module, _ in owners))
    for module in layout.modules:
        if is_head(module, layout) and any(module.at(place) in adapted for place in module.places):
            raise ValueError(
                f"PEFT trains {module.name} whole for task {layout.task_type}, so it can have no "
                "adapter: leave the task out, or exclude it from the targets"
            )
    bias, biased = _bias_mode(layout, touched, adapted) if with_biases else ("none", [])
    saved = _with_whole_modules(layout, [m for m in touched if m not in biased])
    if not saved and not biased:
        return Saved({}, [], bias)
    if base is None:
        raise ValueError(
            f"PEFT saves the trained values of {(*saved, *biased)[0].name} and not what was added "
            "to the base: give the base as params="
        )
    trained = {path: put_on(np.asarray(base[path]), d) for path, d in sites.items()}
    values = ChainMap(trained, base)  # type: ignore[arg-type]
    tensors = {}
    for module in (*biased, *saved):
        for place in module.places:
            name = module.at(place)
            inner = ".base_layer" if module in biased and name in adapted else ""
            tensors[f"{name}{inner}.{module.parameter}"] = tensor_of(module, place, values)
    heads = HEADS.get(layout.task_type or "", ())
    plain = [m for m in saved if not is_head(m, layout)]
    names = [name for module in plain for name in _ends(layout, module)]
    return Saved(tensors, list(dict.fromkeys([*heads, *names])), bias)


def put_on(base: np.ndarray, added: np.ndarray) -> np.ndarray:
    """W' = W + d, in the type of W where that loses nothing."""
    values = base + added
    narrow = values.astype(base.dtype)
    return narrow if np.array_equal(narrow.astype(values.dtype), values) else values


def take_off(base: np.ndarray, values: np.ndarray, dtype: Any) -> np.ndarray:
    """d = W' - W, the inverse of `put_on`."""
    return values.astype(dtype) - base.astype(dtype)


def _bias_mode(
    layout: Layout, touched: Sequence[Module], adapted: Set[str]
) -> tuple[str, list[Module]]:
    """PEFT's mode for the biases that are trained, and those that it covers."""
    biases = [m for m in layout.modules if m.parameter == "bias"]
    trained = [m for m in touched if m.parameter == "bias"]
    if trained and set(trained) == set(biases):
        return "all", trained
    of_adapted = [m for m in biases if all(m.at(place) in adapted for place in m.places)]
    if trained and set(trained) == set(of_adapted):
        return "lora_only", trained
    for module in trained:
        if module in of_adapted:
            raise ValueError(
                f"PEFT trains all biases, or those of all adapted modules, or whole modules "
                f"without an adapter; {module.name}.bias is adapted with only some of them"
            )
    return "none", []


def _with_whole_modules(layout: Layout, touched: Sequence[Module]) -> list[Module]:
    """All tensors of the modules that are touched, and those of the head of the task."""
    names = {module.name for module in touched}
    return [m for m in layout.modules if m.name in names or is_head(m, layout)]


def is_head(module: Module, layout: Layout) -> bool:
    """Whether PEFT takes for the task of the model that a module is trained whole."""
    heads = HEADS.get(layout.task_type or "", ())
    return any(f"{module.name}.".startswith(f"{head}.") for head in heads)


def _ends(layout: Layout, module: Module) -> list[str]:
    """Names for modules_to_save, which PEFT compares without regard to dots."""
    others = names_besides(layout, {module.name})
    end = find_end(module.name, others, lambda other, end: other.endswith(end))
    return [module.at(place) for place in module.places] if end is None else [end]


def read_whole(
    layout: Layout,
    sites: Sequence[Site],
    tensors: Mapping[str, np.ndarray],
    base: Base | None,
) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of sites that are trained whole.

    Args:
        layout: the modules of the model.
        sites: the sites.
        tensors: by the keys that `whole_key` makes.
        base: the base by our paths.

    Raises:
        ValueError: the base is not given, or a tensor is of another shape.
    """
    if sites and base is None:
        raise ValueError(
            f"the file holds trained values of {sites[0].path!r}, of which the base is to be taken "
            "off: give the base as params="
        )
    found = {}
    for site in sites:
        owner = layout.owner(site.path)
        assert owner is not None
        assert base is not None  # both were looked at above
        module, part = owner
        array = np.zeros(site.shape, site.arrays["d"].dtype)
        kernel = np.asarray(base[site.path])
        for place in module.places:
            tensor = tensors[whole_key(module, place)]
            if tensor.shape != (wanted := tensor_of(module, place, base).shape):
                raise ValueError(
                    f"{whole_key(module, place)} has shape {tensor.shape}, but {wanted} fits the "
                    "base"
                )
            values = module.rows[part].from_file(tensor)
            size = values.shape[-1] // module.parts
            own = values[..., part * size : (part + 1) * size]
            array[place] = take_off(kernel[place], own, array.dtype)
        found[site.path] = {"d": array}
    return found


def whole_key(module: Module, place: tuple[int, ...]) -> str:
    """A name for a whole tensor, however the file calls it."""
    return f"{module.at(place)}.{module.parameter}"
