"""What a method needs so that PEFT's files can hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol, runtime_checkable

import numpy as np

from lora_jax.hub.peft_modules import OTHER, Module
from lora_jax.lifting import Method, Site
from lora_jax.methods import Fused


class Part(NamedTuple):
    """One of our sites in a module.

    Args:
        number: which part of the module it is.
        site: the site.
        arrays: its arrays; empty where they are yet to be read.
        ranks: its rank in each layer, 0 where there is no adapter.
        scales: the scale of its ΔW in each layer.
    """

    number: int
    site: Site
    arrays: Mapping[str, np.ndarray]
    ranks: list[int]
    scales: list[float]


class Adapter(NamedTuple):
    """What PEFT holds for one module in one layer.

    Args:
        tensors: by their bare names, such as "lora_A".
        rank: its rank.
        scale: the scale of ΔW.
    """

    tensors: dict[str, np.ndarray]
    rank: int
    scale: float


@runtime_checkable
class Form(Protocol):
    """PEFT's form of one method."""

    @property
    def peft_type(self) -> str:
        """PEFT's name of the method."""
        ...

    def check(self, module: Module, parts: Sequence[Part]) -> None:
        """Raises `ValueError` where PEFT has no place for the adapters of these sites."""
        ...

    def names(self, module: Module, parts: Sequence[Part]) -> list[str]:
        """The bare names of the tensors of a module's adapter."""
        ...

    def shapes(
        self, module: Module, parts: Sequence[Part], rank: int
    ) -> dict[str, tuple[int, ...]]:
        """The shapes of these tensors."""
        ...

    def write(
        self, module: Module, parts: Sequence[Part], base: Mapping[str, Any] | None
    ) -> dict[str, Adapter]:
        """The adapters of a module, by its name in each layer."""
        ...

    def read(
        self, module: Module, parts: Sequence[Part], adapters: Mapping[str, Adapter]
    ) -> dict[str, dict[str, np.ndarray]]:
        """The inverse of `write`: the arrays of the sites, by their paths."""
        ...

    def method(
        self,
        fields: Mapping[str, Any],
        tensors: Mapping[str, np.ndarray],
        ranks: Sequence[int],
        scales: Sequence[float],
        dtype: Any,
    ) -> Method:
        """Our method for an adapter, from the config, the tensors of one layer and the ranks."""
        ...


def method_of(site: Site) -> Any:
    """The method of a site; where that is for one part of a fused weight, the method of it all."""
    return site.method.method if isinstance(site.method, Fused) else site.method


def check_axes(module: Module, part: Part) -> None:
    """Checks that a site is a matrix whose sides are those of transformers."""
    weight, stacked = part.site.weight, module.rows[part.number].stacked_axes
    axes = tuple(range(len(weight.shape)))
    method = type(part.site.method).__name__
    if module.kind == OTHER:
        raise_without_form(
            method, module, part, "linear layers, embeddings, convolutions and experts have"
        )
    if (weight.batch, weight.ins, weight.outs) != (axes[:stacked], axes[stacked:-1], axes[-1:]):
        raise_without_form(
            method, module, part, f"our model takes axes {weight.ins} in and {weight.outs} out"
        )


def raise_without_form(method: str, module: Module, part: Part, why: str) -> NoReturn:
    """Raises the error of a site that PEFT's files cannot hold."""
    raise ValueError(
        f"PEFT has no form for {method} on {part.site.path!r}, which is "
        f"{module.name}.{module.parameter} there: {why}"
    )
