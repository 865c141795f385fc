"""PEFT's forms of IA³ and VeRA, which learn vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lora_jax.hub.peft_form import Adapter, Part, check_axes, raise_without_form
from lora_jax.hub.peft_modules import CONV1D, LINEAR, Module
from lora_jax.lifting import Method
from lora_jax.methods import IA3, VeRA

Arrays = dict[str, dict[str, np.ndarray]]


class IA3Form:
    """PEFT's form of IA³."""

    peft_type = "IA3"

    def check(self, module: Module, parts: Sequence[Part]) -> None:
        """Checks that PEFT has a place for the adapters of these sites."""
        for part in parts:
            check_axes(module, part)
            if module.kind not in (LINEAR, CONV1D):
                raise_without_form("IA3", module, part, "it is for linear layers here")
            if self._feeds(part) and module.parts > 1:
                raise_without_form("IA3(feedforward)", module, part, "a fused weight has one input")

    def _feeds(self, part: Part) -> bool:
        method = part.site.method
        return isinstance(method, IA3) and method.feedforward

    def names(self, module: Module, parts: Sequence[Part]) -> list[str]:
        """The one array."""
        del module, parts
        return ["ia3_l"]

    def shapes(
        self, module: Module, parts: Sequence[Part], rank: int
    ) -> dict[str, tuple[int, ...]]:
        """A column of scales of outputs, or a row of scales of inputs."""
        del rank
        ins, outs = module.one_shape
        return {"ia3_l": (1, ins) if self._feeds(parts[0]) else (outs * module.parts, 1)}

    def write(
        self, module: Module, parts: Sequence[Part], base: Mapping[str, Any] | None
    ) -> dict[str, Adapter]:
        """The adapters of a module, by its name in each layer."""
        del base
        adapters = {}
        for place in module.places:
            own = {part.number: part.arrays["l"][place] for part in parts}
            ones = np.ones_like(next(iter(own.values())))
            if self._feeds(parts[0]):
                scales = own[parts[0].number][None]
            else:
                scales = np.concatenate([own.get(n, ones) for n in range(module.parts)])[:, None]
            adapters[module.at(place)] = Adapter({"ia3_l": scales}, 1, 1.0)
        return adapters

    def read(
        self, module: Module, parts: Sequence[Part], adapters: Mapping[str, Adapter]
    ) -> Arrays:
        """The arrays of the sites of a module, by their paths."""
        found: Arrays = {
            part.site.path: {
                name: np.ones(array.shape, array.dtype) for name, array in part.site.arrays.items()
            }
            for part in parts
        }
        adapted = {part.number for part in parts}
        for place in module.places:
            scales = adapters[module.at(place)].tensors["ia3_l"].reshape(module.parts, -1)
            for part in parts:
                found[part.site.path]["l"][place] = scales[part.number]
            for number in set(module.rows) - adapted:
                if (scales[number] != 1).any():
                    raise ValueError(
                        f"the adapter of {module.at(place)} also changes "
                        f"{module.rows[number].path!r}, which this lift does not adapt"
                    )
        return found

    def method(
        self,
        fields: Mapping[str, Any],
        tensors: Mapping[str, np.ndarray],
        ranks: Sequence[int],
        scales: Sequence[float],
        dtype: Any,
    ) -> Method:
        """IA³ of the outputs or the inputs, which the shape tells."""
        del fields, scales
        if not all(ranks):
            raise ValueError("IA3 adapts all layers of a stack here, but the file has it for some")
        return IA3(feedforward=tensors["ia3_l"].shape[0] == 1, dtype=dtype)


class VeRAForm:
    """PEFT's form of VeRA: one large pair of projections, of which each module takes the corner."""

    peft_type = "VERA"

    def check(self, module: Module, parts: Sequence[Part]) -> None:
        """Checks that PEFT has a place for the adapters of these sites."""
        for part in parts:
            check_axes(module, part)
            if module.kind not in (LINEAR, CONV1D):
                raise_without_form("VeRA", module, part, "it is for linear layers")
            if module.parts > 1:
                raise_without_form("VeRA", module, part, "fused parts would share their scales")

    def names(self, module: Module, parts: Sequence[Part]) -> list[str]:
        """The two vectors; the projections come under keys of their own."""
        del module, parts
        return ["vera_lambda_d", "vera_lambda_b"]

    def shapes(
        self, module: Module, parts: Sequence[Part], rank: int
    ) -> dict[str, tuple[int, ...]]:
        """The shapes of the vectors."""
        del parts
        return {"vera_lambda_d": (rank,), "vera_lambda_b": (module.one_shape[-1],)}

    def write(
        self, module: Module, parts: Sequence[Part], base: Mapping[str, Any] | None
    ) -> dict[str, Adapter]:
        """The adapters of a module, by its name in each layer, each with the projections."""
        del base
        (part,) = parts
        pair = {"vera_A": part.arrays["a"].T, "vera_B": part.arrays["b"].T}
        return {
            module.at(place): Adapter(
                {
                    "vera_lambda_d": part.arrays["d"][place],
                    "vera_lambda_b": part.arrays["g"][place],
                    **pair,
                },
                part.ranks[0],
                1.0,
            )
            for place in module.places
        }

    def read(
        self, module: Module, parts: Sequence[Part], adapters: Mapping[str, Adapter]
    ) -> Arrays:
        """The arrays of the site of a module."""
        (part,) = parts
        arrays = {n: np.zeros(a.shape, a.dtype) for n, a in part.site.arrays.items()}
        for place in module.places:
            tensors = adapters[module.at(place)].tensors
            arrays["d"][place] = tensors["vera_lambda_d"]
            arrays["g"][place] = tensors["vera_lambda_b"]
            ins, outs = module.one_shape
            for name, stored, size in (("a", "vera_A", ins), ("b", "vera_B", outs)):
                corner = tensors[stored][:, :size] if name == "a" else tensors[stored][:size]
                if corner.T.shape != arrays[name].shape:
                    raise ValueError(
                        f"{stored} of the file has shape {tensors[stored].shape}, too small for "
                        f"{part.site.path!r}: it was made for another base or rank"
                    )
                arrays[name][...] = corner.T
        return {part.site.path: arrays}

    def method(
        self,
        fields: Mapping[str, Any],
        tensors: Mapping[str, np.ndarray],
        ranks: Sequence[int],
        scales: Sequence[float],
        dtype: Any,
    ) -> Method:
        """VeRA of this rank."""
        del tensors, scales
        if not all(ranks):
            raise ValueError("VeRA adapts all layers of a stack here, but the file has it for some")
        return VeRA(
            ranks[0],
            d_initial=fields.get("d_initial", 0.1),
            dropout=fields.get("vera_dropout") or 0.0,
            seed=fields.get("projection_prng_key") or 0,
            dtype=dtype,
        )
