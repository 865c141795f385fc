"""The sites of a lift sorted by how PEFT's files hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lora_jax.hub.peft_alone import BEFT, check_biases, is_norm
from lora_jax.hub.peft_form import Form, Part, method_of
from lora_jax.hub.peft_lora import HiRAForm, LoRAForm
from lora_jax.hub.peft_matrices import ADALORA, GRALORA, LOHA, LOKR, MISS
from lora_jax.hub.peft_modules import EXPERT_PARAMETERS, EXPERTS, Layout, Module
from lora_jax.hub.peft_tokens import is_rows
from lora_jax.hub.peft_vectors import IA3Form, VeRAForm
from lora_jax.hub.peft_whole import is_head
from lora_jax.lifting import Lifted, Site
from lora_jax.methods import (
    IA3,
    AdaLoRA,
    BitFit,
    Full,
    GraLoRA,
    HiRA,
    LoHa,
    LoKr,
    LoRA,
    MiSS,
    VeRA,
)
from lora_jax.methods.initialisers.rebased import Rebased

FORMS: Mapping[type, Form] = {
    LoRA: LoRAForm(),
    IA3: IA3Form(),
    VeRA: VeRAForm(),
    LoHa: LOHA,
    LoKr: LOKR,
    AdaLoRA: ADALORA,
    HiRA: HiRAForm(),
    MiSS: MISS,
    GraLoRA: GRALORA,
    BitFit: BEFT,
}
LN_TUNING = "LN_TUNING"

# Modules of which a model of transformers holds further references (T5's embedding).
_COPIED = ("shared",)


class Sorted(NamedTuple):
    """The sites of a lift.

    Args:
        peft_type: PEFT's name of the method.
        form: PEFT's form of it; None where norms alone are trained, which are saved whole.
        parts: sites of that method by the module that holds them, in the order of its parts.
        whole: sites that are trained whole.
        rows: sites that train rows of tokens, by the embedding.
    """

    peft_type: str
    form: Form | None
    parts: dict[Module, list[Part]]
    whole: list[Site]
    rows: dict[Module, Site]


def sort_sites(
    lifted: Lifted, layout: Layout, factors: Mapping[str, Mapping[str, Any]] | None = None
) -> Sorted:
    """Sorts the sites of a lift.

    Args:
        lifted: the lifted function.
        layout: the modules of the model.
        factors: the arrays of the sites; None where they are yet to be read.

    Raises:
        ValueError: PEFT has no form for a site, or for its method together with the others.
    """
    whole = [site for site in lifted.sites if isinstance(site.method, Full)]
    rows = {owner_of(site, layout)[0]: site for site in lifted.sites if is_rows(site)}
    rest = [site for site in lifted.sites if site not in whole and not is_rows(site)]
    if all(isinstance(site.method, BitFit) for site in lifted.sites):
        check_biases(layout, [owner_of(site, layout)[0] for site in whole])
        rest, whole = whole, []
    if not rest and not rows and _are_norms([owner_of(site, layout)[0] for site in whole], layout):
        return Sorted(LN_TUNING, None, {}, whole, {})
    if not rest:
        raise ValueError(
            "PEFT's files hold rows of tokens, and arrays that are trained whole and no norms, "
            "beside an adapter: adapt a weight by LoRA too"
        )
    forms = {form.peft_type: form for form in map(form_of, rest)}
    if len(forms) > 1:
        raise ValueError(
            f"an adapter of PEFT has one method, but this lift has {' and '.join(forms)}"
        )
    ((peft_type, form),) = forms.items()
    parts: dict[Module, list[Part]] = {}
    for site in rest:
        module, number = owner_of(site, layout)
        arrays = None if factors is None else factors[site.path]
        parts.setdefault(module, []).append(_part(module, number, site, arrays))
    for site in whole:
        if owner_of(site, layout)[0].kind == EXPERTS:
            raise ValueError(f"PEFT cannot save {site.path!r}, all experts' weights, whole")
    for module, own in parts.items():
        own.sort(key=lambda part: part.number)
        form.check(module, own)
    return Sorted(peft_type, form, parts, whole, rows)


def _are_norms(modules: Sequence[Module], layout: Layout) -> bool:
    """Whether modules are norms alone, beside the head that PEFT trains for the task."""
    inner = [module for module in modules if not is_head(module, layout)]
    return bool(inner) and all(is_norm(module, layout) for module in inner)


def form_of(site: Site) -> Form:
    """PEFT's form of a site's method."""
    for kind in type(method_of(site)).__mro__:
        if kind in FORMS:
            return FORMS[kind]
    known = ", ".join(kind.__name__ for kind in FORMS)
    raise ValueError(
        f"PEFT's files have no form here for {type(site.method).__name__}, the method of "
        f"{site.path!r}; they have for {known} and Full"
    )


def form_of_type(peft_type: str) -> Form:
    """The form of a type of PEFT's."""
    return next(form for form in FORMS.values() if form.peft_type == peft_type)


def owner_of(site: Site, layout: Layout) -> tuple[Module, int]:
    """The module that holds a site, and which part of it that is."""
    owner = layout.owner(site.path)
    if owner is None:
        raise ValueError(f"the table of names has no module for {site.path!r}")
    if owner[0].name in _COPIED:
        raise ValueError(
            f"PEFT cannot adapt {owner[0].name}, which {site.path!r} is there: encoder and decoder "
            "hold references to it that PEFT leaves as they are; exclude it"
        )
    return owner


def _part(module: Module, number: int, site: Site, arrays: Mapping[str, Any] | None) -> Part:
    method = method_of(site)
    layers = len(module.places)
    ranks = list(getattr(method, "ranks", None) or [getattr(method, "rank", 1)] * layers)
    scales = _scales(method, ranks)
    given = dict(arrays or {})
    if isinstance(method, Rebased):
        if arrays is None:
            raise ValueError(
                f"{type(method).__name__} is saved as plain LoRA of twice the rank: load it into "
                f"LoRA(rank={2 * method.rank}) for {site.path!r}"
            )
        given = method.plain(given, site.weight)
        ranks = [2 * rank for rank in ranks]
    return Part(number, site, {k: np.asarray(v) for k, v in given.items()}, ranks, scales)


def _scales(method: Any, ranks: Sequence[int]) -> list[float]:
    alphas = getattr(method, "alphas", None)
    if not hasattr(method, "alpha"):
        return [1.0] * len(ranks)
    if isinstance(method, AdaLoRA):
        return [method.alpha / (method.rank + 1e-5)] * len(ranks)
    if not isinstance(method, LoRA):
        return [method.alpha / (method.rank + getattr(method, "hybrid", 0))] * len(ranks)
    alphas = alphas or [method.alpha] * len(ranks)
    roots = [max(math.sqrt(rank) if method.rs else rank, 1) for rank in ranks]
    return [alpha / root for alpha, root in zip(alphas, roots, strict=True)]


def pattern_name(module: Module, name: str) -> str:
    """What PEFT compares patterns of ranks with: a module, or a parameter that holds experts."""
    return f"{name}.{module.parameter}" if module.kind == EXPERTS else name


def wrappers(module: Module, adapted: Sequence[Module]) -> str:
    """What stands after the name of a module that others are wrapped around.

    PEFT wraps the adapted parameters of experts one around the other, the last outermost.
    """
    if module.kind != EXPERTS:
        return ""
    order = [m for m in adapted if m.kind == EXPERTS and m.name == module.name]
    order.sort(key=lambda m: EXPERT_PARAMETERS.index(m.parameter))
    return ".base_layer" * (len(order) - 1 - order.index(module))
