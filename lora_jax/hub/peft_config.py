"""adapter_config.json: which modules an adapter is for, and how it is scaled."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from lora_jax.hub.peft_modules import EXPERTS, Layout, Module
from lora_jax.hub.peft_types import check_types

# What the fields are in a config that says nothing of them.
DEFAULTS: dict[str, Any] = {
    "ADALORA": {"init_r": 12, "lora_alpha": 8},
    "BEFT": {},
    "GRALORA": {"r": 32, "alpha": 64},
    "HIRA": {"r": 32},
    "IA3": {},
    "LN_TUNING": {},
    "LOHA": {"r": 8, "alpha": 8},
    "LOKR": {"r": 8, "alpha": 8},
    "LORA": {"r": 8, "lora_alpha": 8},
    "MISS": {"r": 64},
    "VERA": {"r": 256},
}

# Variants of LoRA that change what the tensors mean, and what they do.
_VARIANTS = {
    "alora_invocation_tokens": "aLoRA, which adapts only the tokens from an invocation on",
    "arrow_config": "Arrow, which chooses among adapters for each token",
    "kasa_config": "KaSA, which weighs singular values",
    "layer_replication": "layers that are used more than once",
    "lora_bias": "a bias beside B",
    "megatron_config": "layers of Megatron",
    "monteclora_config": "MonteCLoRA, which samples factors",
    "use_bdlora": "BD-LoRA, whose factors are block-diagonal",
    "use_qalora": "QALoRA, which pools inputs",
    "velora_config": "VeLoRA, which compresses activations",
}

# Starts for which PEFT changes the base.
_MOVING_STARTS = ("pissa", "corda", "olora", "lora_ga", "loftq")


class Targets(NamedTuple):
    """Which modules an adapter is for, as PEFT says it.

    Args:
        modules: ends of names of modules.
        layers: numbers of the layers; None means all.
        parameters: ends of names of parameters that hold all experts.
    """

    modules: list[str]
    layers: list[int] | None
    parameters: list[str]


def find_targets(
    layout: Layout, adapted: Mapping[Module, Sequence[str]], *, apart: bool = False
) -> Targets:
    """Says which modules are adapted, as briefly as is unambiguous.

    Args:
        layout: the modules of the model.
        adapted: the modules, and their names in the layers that are adapted.
        apart: give each of them an end that none of the others has.
    """
    others = names_besides(layout, {m.name for m in adapted if m.kind != EXPERTS})
    layers = _common_layers([m for m in adapted if m.kind != EXPERTS], adapted)
    modules, parameters = [], []
    for module, names in adapted.items():
        complete = len(names) == len(module.places)
        if module.kind == EXPERTS:
            ends = [f"{name}.{module.parameter}" for name in names]
            tensors = {f"{m.name}.{m.parameter}" for m in layout.modules if m != module}
            end = find_end(f"{module.name}.{module.parameter}", tensors) if complete else None
            parameters += ends if end is None else [end]
            continue
        rest = names_besides(layout, {module.name}) if apart else others
        end = find_end(module.name, rest) if complete or layers is not None else None
        modules += list(names) if end is None else [end]
    return Targets(list(dict.fromkeys(modules)), layers, parameters)


def names_besides(layout: Layout, names: Set[str]) -> set[str]:
    """The names of all other modules, and of the modules that hold any."""
    parents = {
        module.name[: dot.start()]
        for module in layout.modules
        for dot in re.finditer(r"\.", module.name)
    }
    return (parents | {module.name for module in layout.modules}) - names


def find_end(
    name: str, others: Iterable[str], ends: Callable[[str, str], bool] | None = None
) -> str | None:
    """The shortest end of a name, cut at dots, that is no end of any of the others.

    >>> find_end("h.{layer}.attn.c_proj", ["h.{layer}.mlp.c_proj"])
    'attn.c_proj'
    """
    ends = ends or (lambda other, end: f".{other}".endswith(f".{end}"))
    parts = name.split(".")
    for start in range(len(parts) - 1, -1, -1):
        if "{" in parts[start]:
            return None
        if parts[start].isdigit():  # would be the end of a layer's name too
            continue
        end = ".".join(parts[start:])
        if not any(ends(other, end) for other in others):
            return end
    return None


def _common_layers(
    modules: Sequence[Module], adapted: Mapping[Module, Sequence[str]]
) -> list[int] | None:
    """The layers that are adapted, where all modules agree and PEFT can tell the layers."""
    found = []
    for module in modules:
        numbers = [re.match(r".*?\.[^.]*\.(\d+)\.", name) for name in adapted[module]]
        if not all(numbers):
            return None
        found.append([int(number[1]) for number in numbers if number])
    complete = all(len(adapted[module]) == len(module.places) for module in modules)
    return None if complete or any(one != found[0] for one in found) else found[0]


def find_patterns(
    layout: Layout, values: Mapping[Module, Mapping[str, float]]
) -> tuple[float, dict[str, float]]:
    """A value for most modules, and a pattern of PEFT for each of the rest.

    Args:
        layout: the modules of the model.
        values: for each module the value in each layer, by the name of the module there.
    """
    counts = Counter(value for by_name in values.values() for value in by_name.values())
    usual = counts.most_common(1)[0][0]
    patterns: dict[str, float] = {}
    for module, by_name in values.items():
        tail = f".{module.parameter}" if module.kind == EXPERTS else ""
        if set(by_name.values()) == {usual}:
            continue
        end = find_end(
            module.name + tail, {m.name for m in layout.modules if m.name != module.name}
        )
        if end is not None and len(set(by_name.values())) == 1:
            patterns[end] = next(iter(by_name.values()))
        else:
            patterns |= {name + tail: value for name, value in by_name.items() if value != usual}
    return usual, patterns


def check_config(fields: Mapping[str, Any], where: Any) -> str:
    """Checks that the tensors of an adapter mean what we take them for.

    Returns:
        Its type, such as "LORA".

    Raises:
        ValueError: the type is unknown, it is a variant that we do not have, or a field holds
            what it cannot.
    """
    check_types(fields, where)
    kind = fields.get("peft_type")
    if kind not in DEFAULTS:
        raise ValueError(
            f"{where} has peft_type {kind!r}; supported: {', '.join(sorted(DEFAULTS))}"
        )
    if kind == "MISS" and fields.get("init_weights") == "bat":
        raise ValueError(
            f"{where} says init_weights='bat': that form of MiSS multiplies with W, and is not "
            "supported; its default and its 'mini' form are"
        )
    if kind == "VERA" and not fields.get("save_projection", True):
        raise ValueError(
            f"{where} says save_projection=false: the projections would have to be drawn with "
            "torch; save it with them"
        )
    start = str(fields.get("init_lora_weights")).lower()
    if start.startswith(_MOVING_STARTS):
        raise ValueError(
            f"{where} says init_lora_weights={start!r}: PEFT took that start off its base, so "
            "these factors do not fit the base itself; convert them with PEFT's save_pretrained(…, "
            "path_initial_model_for_weight_conversion=…)"
        )
    for name, meaning in _VARIANTS.items():
        if fields.get(name):
            raise ValueError(
                f"{where} asks for {name}, that is {meaning}: a variant of LoRA that is not "
                "supported"
            )
    return str(kind)


def rank_of(fields: Mapping[str, Any], name: str) -> int:
    """The rank of a module's adapter, by the rules of PEFT; 1 for methods without."""
    known = _with_defaults(fields)
    if fields["peft_type"] == "ADALORA":
        return int(known["init_r"])
    return int(_by_pattern(fields.get("rank_pattern"), name, known.get("r", 1)))


def scale_of(fields: Mapping[str, Any], name: str, rank: int) -> float:
    """The scale of a module's ΔW, by the rules of PEFT; 1 for methods without."""
    known = _with_defaults(fields)
    default = known.get("lora_alpha", known.get("alpha"))
    if default is None:
        return 1.0
    if fields["peft_type"] == "ADALORA":
        return float(default) / (rank + 1e-5)
    alpha = float(_by_pattern(fields.get("alpha_pattern"), name, default))
    if fields["peft_type"] == "GRALORA":
        rank += int(fields.get("hybrid_r") or 0)
    return alpha / (math.sqrt(rank) if fields.get("use_rslora") else rank)


def _with_defaults(fields: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in fields.items() if value is not None}
    return DEFAULTS[fields["peft_type"]] | given


def _by_pattern(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """The value of the first pattern that the end of the name matches."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default
