"""The fields of adapter_config.json for what is saved."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from lora_jax.hub.peft_config import Targets, find_patterns, find_targets
from lora_jax.hub.peft_form import Adapter
from lora_jax.hub.peft_lora import plain_number
from lora_jax.hub.peft_modules import CONV1D, EXPERTS, Layout, Module
from lora_jax.hub.peft_whole import Saved
from lora_jax.methods import IA3, DoRA

Adapters = Mapping[Module, Mapping[str, Adapter]]
Fields = dict[str, Any]


def make_fields(
    peft_type: str,
    layout: Layout,
    methods: Mapping[Module, Any],
    adapters: Adapters,
    saved: Saved,
    *,
    tied: bool,
) -> Fields:
    """Makes the fields.

    Args:
        peft_type: PEFT's name of the method.
        layout: the modules of the model.
        methods: the method of each adapted module.
        adapters: what is saved for each of them.
        saved: what is saved whole.
        tied: whether the embedding is adapted together with the head that is tied to it.

    Raises:
        ValueError: PEFT's method of this name cannot train biases.
    """
    by_module = {module: list(found) for module, found in adapters.items()}
    targets = find_targets(layout, by_module, apart=peft_type == "IA3")
    common = {
        "peft_type": peft_type,
        "task_type": layout.task_type,
        "target_modules": targets.modules,
        "modules_to_save": saved.modules or None,
        "inference_mode": True,
    }
    if saved.bias != "none" and peft_type not in _WITH_BIASES:
        raise ValueError(
            f"PEFT trains biases beside {', '.join(_WITH_BIASES)}, but this is {peft_type}"
        )
    if peft_type == "LN_TUNING":
        return common
    if peft_type == "IA3":
        return common | _ia3(layout, methods, adapters)
    fields = common | _MAKERS[peft_type](layout, methods, adapters, targets)
    if peft_type in _WITH_BIASES:
        fields["bias"] = saved.bias.replace("lora", _WITH_BIASES[peft_type])
    return fields | ({"ensure_weight_tying": tied} if peft_type == "LORA" else {})


# Methods beside which PEFT trains biases, as it spells them in the mode "…_only".
_WITH_BIASES = {"LORA": "lora", "ADALORA": "lora", "MISS": "MiSS", "GRALORA": "gralora"}


def _lora(
    layout: Layout, methods: Mapping[Module, Any], adapters: Adapters, targets: Targets
) -> Fields:
    rs = all(method.rs for method in methods.values())
    fields = _ranks(layout, adapters, "lora_alpha", lambda r: math.sqrt(r) if rs else r)
    experts = any(module.kind == EXPERTS for module in adapters)
    return fields | {
        "target_parameters": targets.parameters or None,
        "layers_to_transform": targets.layers,
        "use_rslora": rs,
        "use_dora": any(isinstance(method, DoRA) for method in methods.values()),
        "fan_in_fan_out": _fan_in_first(adapters),
        # PEFT refuses dropout together with experts; it matters to further training alone.
        "lora_dropout": 0.0 if experts else _usual(methods, "dropout"),
        "init_lora_weights": True,
    }


def _adalora(
    layout: Layout, methods: Mapping[Module, Any], adapters: Adapters, targets: Targets
) -> Fields:
    fields = _ranks(layout, adapters, "lora_alpha", lambda rank: rank + 1e-5)
    if fields["rank_pattern"] or fields["alpha_pattern"]:
        raise ValueError("PEFT's AdaLoRA has one rank and alpha for all modules")
    return {
        "init_r": fields["r"],
        "target_r": fields["r"],
        "lora_alpha": fields["lora_alpha"],
        # PEFT asks for a schedule even where nothing is left to schedule.
        "total_step": 1,
        "layers_to_transform": targets.layers,
        "fan_in_fan_out": _fan_in_first(adapters),
        "lora_dropout": _usual(methods, "dropout"),
        "init_lora_weights": True,
    }


def _vera(
    layout: Layout, methods: Mapping[Module, Any], adapters: Adapters, targets: Targets
) -> Fields:
    return {
        "r": _one_rank("VeRA", layout, adapters),
        "d_initial": _usual(methods, "d_initial"),
        "vera_dropout": _usual(methods, "dropout"),
        "projection_prng_key": _usual(methods, "seed"),
        "save_projection": True,
        "layers_to_transform": targets.layers,
        "fan_in_fan_out": _fan_in_first(adapters),
        "init_weights": True,
    }


def _lycoris(
    layout: Layout, methods: Mapping[Module, Any], adapters: Adapters, targets: Targets
) -> Fields:
    fields = _ranks(layout, adapters, "alpha", lambda rank: rank)
    return fields | {"layers_to_transform": targets.layers, "init_weights": True}


def _lokr(
    layout: Layout, methods: Mapping[Module, Any], adapters: Adapters, targets: Targets
) -> Fields:
    return _lycoris(layout, methods, adapters, targets) | {
        "decompose_both": _only("LoKr", methods, "decompose_both"),
        "decompose_factor": _only("LoKr", methods, "factor"),
    }


def _hira(
    layout: Layout, methods: Mapping[Module, Any], adapters: Adapters, targets: Targets
) -> Fields:
    return {
        "r": _one_rank("HiRA", layout, adapters),
        "layers_to_transform": targets.layers,
        "fan_in_fan_out": _fan_in_first(adapters),
        "hira_dropout": _usual(methods, "dropout"),
        "init_weights": True,
    }


def _beft(
    layout: Layout, methods: Mapping[Module, Any], adapters: Adapters, targets: Targets
) -> Fields:
    del layout, methods, adapters, targets
    return {"init_weights": True}


def _miss(
    layout: Layout, methods: Mapping[Module, Any], adapters: Adapters, targets: Targets
) -> Fields:
    mini = _only("MiSS", methods, "mini")
    return {
        "r": _one_rank("MiSS", layout, adapters),
        "mini_r": mini or 1,
        "init_weights": "mini" if mini else True,
        "layers_to_transform": targets.layers,
        "miss_dropout": _usual(methods, "dropout"),
    }


def _gralora(
    layout: Layout, methods: Mapping[Module, Any], adapters: Adapters, targets: Targets
) -> Fields:
    return {
        "r": _one_rank("GraLoRA", layout, adapters),
        "alpha": plain_number(_only("GraLoRA", methods, "alpha")),
        "gralora_k": _only("GraLoRA", methods, "k"),
        "hybrid_r": _only("GraLoRA", methods, "hybrid"),
        "layers_to_transform": targets.layers,
        "fan_in_fan_out": _fan_in_first(adapters),
        "gralora_dropout": _usual(methods, "dropout"),
        "init_weights": True,
    }


def _ia3(layout: Layout, methods: Mapping[Module, Any], adapters: Adapters) -> Fields:
    fed = {
        module: list(found)
        for module, found in adapters.items()
        if isinstance(methods[module], IA3) and methods[module].feedforward
    }
    return {
        "feedforward_modules": find_targets(layout, fed, apart=True).modules,
        "fan_in_fan_out": _fan_in_first(adapters),
        "init_ia3_weights": True,
    }


_MAKERS = {
    "LORA": _lora,
    "ADALORA": _adalora,
    "VERA": _vera,
    "LOHA": _lycoris,
    "LOKR": _lokr,
    "HIRA": _hira,
    "MISS": _miss,
    "GRALORA": _gralora,
    "BEFT": _beft,
}


def _ranks(
    layout: Layout, adapters: Adapters, alpha: str, divisor: Callable[[int], float]
) -> Fields:
    """The rank and alpha of most modules, and patterns for the rest."""

    def collect(value: Callable[[Adapter], float]) -> dict[Module, dict[str, float]]:
        return {
            module: {name: value(one) for name, one in by_name.items()}
            for module, by_name in adapters.items()
        }

    rank, rank_pattern = find_patterns(layout, collect(lambda one: one.rank))
    usual, alpha_pattern = find_patterns(
        layout, collect(lambda one: plain_number(one.scale * divisor(one.rank)))
    )
    return {
        "r": rank,
        alpha: usual,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
    }


def _one_rank(name: str, layout: Layout, adapters: Adapters) -> int:
    fields = _ranks(layout, adapters, "alpha", lambda rank: rank)
    if fields["rank_pattern"]:
        other, rank = next(iter(fields["rank_pattern"].items()))
        raise ValueError(
            f"PEFT's {name} has one rank for all modules, but {other} has {rank} and others "
            f"{fields['r']} (a fused module has the sum of its parts')"
        )
    return int(fields["r"])


def _only(name: str, methods: Mapping[Module, Any], field: str) -> Any:
    """The value of a field of which PEFT's method has one for all modules."""
    values = {getattr(method, field) for method in methods.values()}
    if len(values) > 1:
        found = " and ".join(sorted(map(str, values)))
        raise ValueError(
            f"PEFT's {name} has one {field} for all modules, but this lift has {found}"
        )
    return values.pop()


def _usual(methods: Mapping[Module, Any], name: str) -> Any:
    return Counter(getattr(method, name) for method in methods.values()).most_common(1)[0][0]


def _fan_in_first(adapters: Adapters) -> bool:
    return any(module.kind == CONV1D for module in adapters)
