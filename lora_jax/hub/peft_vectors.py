"""PEFT's forms of IA³ and VeRA, which learn vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lora_jax.hub.peft_form import Adapter, Part, check_axes, raise_without_form
from lora_jax.hub.peft_modules import CONV1D, LINEAR, WINDOW, Module
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
            if module.kind not in (LINEAR, CONV1D, WINDOW):
                raise_without_form("IA3", module, part, "it is for linear layers and convolutions")
            if self._feeds(part) and module.parts > 1:
                raise_without_form("IA3(feedforward)", module, part, "a fused weight has one input")
            if self._feeds(part) and module.kind == WINDOW:
                raise_without_form("IA3(feedforward)", module, part, "it would scale channels")

    def _feeds(self, part: Part) -> bool:
        method = part.site.method
        return isinstance(method, IA3) and method.feedforward

    def _sides(self, module: Module) -> list[int]:
        """An axis for each side of the window of a convolution."""
        return [1] * (len(next(iter(module.rows.values())).window) - 1)

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
        if module.kind == WINDOW:
            return {"ia3_l": (1, outs, *self._sides(module))}
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
            if module.kind == WINDOW:
                scales = scales.reshape(1, -1, *self._sides(module))
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
        shape = tensors["ia3_l"].shape  # of a convolution's outputs: (1, out, 1, 1)
        return IA3(feedforward=len(shape) == 2 and shape[0] == 1, dtype=dtype)


class VeRAForm:
    """PEFT's form of VeRA: one large pair of projections, of which each module takes the corner."""

    peft_type = "VERA"

    def check(self, module: Module, parts: Sequence[Part]) -> None:
        """Checks that PEFT has a place for the adapters of these sites."""
        for part in parts:
            check_axes(module, part)
            if module.kind not in (LINEAR, CONV1D):
                raise_without_form("VeRA", module, part, "it is for linear layers")

    def names(self, module: Module, parts: Sequence[Part]) -> list[str]:
        """The two vectors; the projections come under keys of their own."""
        del module, parts
        return ["vera_lambda_d", "vera_lambda_b"]

    def shapes(
        self, module: Module, parts: Sequence[Part], rank: int
    ) -> dict[str, tuple[int, ...]]:
        """The shapes of the vectors."""
        del parts
        return {"vera_lambda_d": (rank,), "vera_lambda_b": (module.one_shape[-1] * module.parts,)}

    def write(
        self, module: Module, parts: Sequence[Part], base: Mapping[str, Any] | None
    ) -> dict[str, Adapter]:
        """The adapters of a module, by its name in each layer, each with the projections."""
        del base
        first = parts[0]
        for part in parts[1:]:
            if not all(np.array_equal(part.arrays[n], first.arrays[n]) for n in ("a", "d")):
                raise ValueError(
                    f"{module.name} is one module in PEFT, whose VeRA has one A and one scale of "
                    f"each rank: those of {first.site.path!r} and {part.site.path!r} differ; LoRA "
                    "can be joined"
                )

        def joined(name: str, place: tuple[int, ...]) -> np.ndarray:
            own = {part.number: part.arrays[name][place] for part in parts}
            zeros = np.zeros_like(first.arrays[name][place])
            return np.concatenate([own.get(n, zeros) for n in range(module.parts)], axis=-1)

        return {
            module.at(place): Adapter(
                {
                    "vera_lambda_d": first.arrays["d"][place],
                    "vera_lambda_b": joined("g", place),
                    "vera_A": first.arrays["a"].T,
                    "vera_B": joined("b", ()).T,
                },
                first.ranks[0],
                1.0,
            )
            for place in module.places
        }

    def read(
        self, module: Module, parts: Sequence[Part], adapters: Mapping[str, Adapter]
    ) -> Arrays:
        """The arrays of the sites of a module."""
        ins, outs = module.one_shape
        found: Arrays = {}
        for part in parts:
            arrays = {n: np.zeros(a.shape, a.dtype) for n, a in part.site.arrays.items()}
            own = slice(part.number * outs, (part.number + 1) * outs)
            for place in module.places:
                tensors = adapters[module.at(place)].tensors
                arrays["d"][place] = tensors["vera_lambda_d"]
                arrays["g"][place] = tensors["vera_lambda_b"][own]
                corners = {"a": tensors["vera_A"][:, :ins], "b": tensors["vera_B"][own]}
                for name, corner in corners.items():
                    if corner.T.shape != arrays[name].shape:
                        stored = f"vera_{name.upper()}"
                        raise ValueError(
                            f"{stored} of the file has shape {tensors[stored].shape}, too small "
                            f"for {part.site.path!r}: it was made for another base or rank"
                        )
                    arrays[name][...] = corner.T
            found[part.site.path] = arrays
        _check_rest(module, parts, adapters)
        return found

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
            d_initial=0.1 if fields.get("d_initial") is None else fields["d_initial"],
            dropout=fields.get("vera_dropout") or 0.0,
            seed=fields.get("projection_prng_key") or 0,
            dtype=dtype,
        )


def _check_rest(module: Module, parts: Sequence[Part], adapters: Mapping[str, Adapter]) -> None:
    """Refuses VeRA of a fused weight that changes parts which the lift leaves alone."""
    outs = module.one_shape[-1]
    for number in set(module.rows) - {part.number for part in parts}:
        for name, adapter in adapters.items():
            if adapter.tensors["vera_lambda_b"][number * outs : (number + 1) * outs].any():
                raise ValueError(
                    f"the adapter of {name} also changes {module.rows[number].path!r}, which this "
                    "lift does not adapt"
                )
