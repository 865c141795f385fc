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
    if saved.bias != "none" and peft_type not in ("LORA", "ADALORA"):
        raise ValueError(f"PEFT trains biases beside LoRA and AdaLoRA, but this is {peft_type}")
    if peft_type == "IA3":
        return common | _ia3(layout, methods, adapters)
    make = {"LORA": _lora, "ADALORA": _adalora, "VERA": _vera}.get(peft_type, _lycoris)
    return common | make(layout, methods, adapters, targets) | _of_lora(peft_type, saved, tied)


def _of_lora(peft_type: str, saved: Saved, tied: bool) -> Fields:
    if peft_type == "LORA":
        return {"bias": saved.bias, "ensure_weight_tying": tied}
    return {"bias": saved.bias} if peft_type == "ADALORA" else {}


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
        "rank_pattern": None,
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
    fields = _ranks(layout, adapters, "alpha", lambda rank: rank)
    if fields["rank_pattern"]:
        raise ValueError("PEFT's VeRA has one rank for all modules")
    return {
        "r": fields["r"],
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
    fields |= {"layers_to_transform": targets.layers, "init_weights": True}
    if hasattr(next(iter(methods.values())), "decompose_both"):
        for ours, theirs in (("decompose_both", "decompose_both"), ("factor", "decompose_factor")):
            if len({getattr(method, ours) for method in methods.values()}) > 1:
                raise ValueError(f"PEFT's LoKr has one {theirs} for all modules")
            fields[theirs] = _usual(methods, ours)
    return fields


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


def _usual(methods: Mapping[Module, Any], name: str) -> Any:
    return Counter(getattr(method, name) for method in methods.values()).most_common(1)[0][0]


def _fan_in_first(adapters: Adapters) -> bool:
    return any(module.kind == CONV1D for module in adapters)
