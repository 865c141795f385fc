"""Methods by their names, for configs and command lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lora_jax.lifting import Method
from lora_jax.methods import initialisers
from lora_jax.methods.adalora import AdaLoRA
from lora_jax.methods.bitfit import BitFit
from lora_jax.methods.dora import DoRA
from lora_jax.methods.full import Full
from lora_jax.methods.gralora import GraLoRA
from lora_jax.methods.hira import HiRA
from lora_jax.methods.ia3 import IA3
from lora_jax.methods.layer_norm_tuning import LayerNormTuning
from lora_jax.methods.loha import LoHa
from lora_jax.methods.lokr import LoKr
from lora_jax.methods.lora import LoRA
from lora_jax.methods.lora_fa import LoRAFA
from lora_jax.methods.miss import MiSS
from lora_jax.methods.token_rows import TokenRows
from lora_jax.methods.vera import VeRA
from lora_jax.nearest import nearest

_OF_THIS_PACKAGE = (
    LoRA,
    DoRA,
    VeRA,
    IA3,
    LoHa,
    LoKr,
    AdaLoRA,
    LoRAFA,
    MiSS,
    HiRA,
    GraLoRA,
    BitFit,
    LayerNormTuning,
    TokenRows,
    Full,
)
_STARTS = (
    initialisers.Orthogonal,
    initialisers.EVA,
    initialisers.PiSSA,
    initialisers.OLoRA,
    initialisers.CorDA,
    initialisers.LoRAGA,
)
METHODS: Mapping[str, type] = {kind.__name__: kind for kind in (*_OF_THIS_PACKAGE, *_STARTS)}


def make_method(name: str = "LoRA", **fields: Any) -> Method:
    """Makes a method from its name and fields, as a config holds them.

    Args:
      name: of the class, such as "DoRA"; case, "-" and "_" do not matter.
      **fields: of that method.

    Raises:
      ValueError: there is no such method, or it has no such field; the nearest is named.

    >>> print(make_method("dora", rank=4))
    DoRA(rank=4, alpha=16)
    """
    spelt = {_plain(known): known for known in METHODS}
    if _plain(name) not in spelt:
        near = spelt[nearest(_plain(name), spelt)[0]]
        raise ValueError(f"unknown method {name!r}; nearest: {near!r}; known: {', '.join(METHODS)}")
    kind = METHODS[spelt[_plain(name)]]
    known = _fields(kind)
    for field in fields:
        if field not in known:
            (near,) = nearest(field, known)
            raise ValueError(
                f"{kind.__name__} has no field {field!r}; nearest: {near!r}; known: "
                f"{', '.join(known)}"
            )
    made: Method = kind(**fields)
    return made


def method_fields(name: str) -> tuple[str, ...]:
    """The fields of a method, by its name as of `make_method`; none where there is no such method.

    >>> method_fields("ia3")
    ('feedforward', 'dtype')
    """
    kinds = {_plain(known): kind for known, kind in METHODS.items()}
    return tuple(_fields(kinds[_plain(name)])) if _plain(name) in kinds else ()


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.init]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
