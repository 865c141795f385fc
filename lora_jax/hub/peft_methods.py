"""PEFT's forms of IA³, VeRA, LoHa, LoKr and AdaLoRA."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lora_jax.hub.peft_form import Adapter, Part, check_axes, raise_without_form
from lora_jax.hub.peft_lora import check_scale, plain_number
from lora_jax.hub.peft_modules import CONV1D, LINEAR, Module
from lora_jax.lifting import Method
from lora_jax.methods import IA3, AdaLoRA, LoHa, LoKr, VeRA

Arrays = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class MatrixForm:
    """A method whose arrays PEFT holds transposed, layer by layer.

    Attributes:
      peft_type: PEFT's name of it.
      ours: our method.
      theirs: PEFT's name of each of our arrays.
      columns: our arrays whose last axis is that of the outputs, which alone differ between parts
        of a fused weight.
      kinds: of weights that PEFT has it for.
    """

    peft_type: str
    ours: type
    theirs: Mapping[str, str]
    columns: tuple[str, ...] = ()
    kinds: tuple[str, ...] = (LINEAR,)

    def check(self, module: Module, parts: Sequence[Part]) -> None:
        """Checks that PEFT has a place for the adapters of these sites."""
        for part in parts:
            check_axes(module, part)
            if module.kind not in self.kinds or (module.parts > 1 and not self.columns):
                known = " and ".join(f"{kind}s" for kind in self.kinds)
                raise_without_form(
                    self.ours.__name__, module, part, f"a {module.kind}, and it has for {known}"
                )

    def names(self, module: Module, parts: Sequence[Part]) -> list[str]:
        """The arrays of a module's adapter."""
        del module
        return [self.theirs[name] for name in parts[0].site.arrays]

    def shapes(
        self, module: Module, parts: Sequence[Part], rank: int
    ) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays in one layer."""
        del rank
        shapes = {}
        for name, array in parts[0].site.arrays.items():
            one = array.shape[len(module.places[0]) :]
            if name in self.columns:
                one = (*one[:-1], one[-1] * module.parts)
            shapes[self.theirs[name]] = self._to_file(np.empty(one, "?")).shape
        return shapes

    def write(
        self, module: Module, parts: Sequence[Part], base: Mapping[str, Any] | None
    ) -> dict[str, Adapter]:
        """The adapters of a module, by its name in each layer."""
        del base
        self._check_alike(module, parts)
        first = parts[0]
        adapters = {}
        for place in module.places:
            tensors = {}
            for name, array in first.arrays.items():
                one = array[place]
                if name in self.columns and module.parts > 1:
                    own = {part.number: part.arrays[name][place] for part in parts}
                    zeros = np.zeros_like(one)
                    columns = [own.get(number, zeros) for number in range(module.parts)]
                    one = np.concatenate(columns, axis=-1)
                tensors[self.theirs[name]] = self._to_file(one)
            adapters[module.at(place)] = Adapter(tensors, first.ranks[0], first.scales[0])
        return adapters

    def _check_alike(self, module: Module, parts: Sequence[Part]) -> None:
        first = parts[0]
        for part in parts[1:]:
            same = (part.ranks, part.scales) == (first.ranks, first.scales) and all(
                np.array_equal(part.arrays[name], array)
                for name, array in first.arrays.items()
                if name not in self.columns
            )
            if not same:
                raise ValueError(
                    f"{module.name} is one module in PEFT, whose {self.ours.__name__} has one "
                    f"{' and '.join(sorted(set(first.arrays) - set(self.columns)))}: those of "
                    f"{first.site.path!r} and {part.site.path!r} differ; LoRA can be joined"
                )

    def read(
        self, module: Module, parts: Sequence[Part], adapters: Mapping[str, Adapter]
    ) -> Arrays:
        """The arrays of the sites of a module, by their paths."""
        found: Arrays = {}
        for part in parts:
            arrays = {n: np.zeros(a.shape, a.dtype) for n, a in part.site.arrays.items()}
            for i, place in enumerate(module.places):
                adapter = adapters[module.at(place)]
                check_scale(module.at(place), parts, adapter, i)
                for name, array in arrays.items():
                    one = self._from_file(adapter.tensors[self.theirs[name]], name)
                    if name in self.columns:
                        size = array.shape[-1]
                        one = one[..., part.number * size : (part.number + 1) * size]
                    array[place] = one
            found[part.site.path] = arrays
        _check_rest(module, parts, adapters, self)
        return found

    def unfused(self, module: Module, adapter: Adapter, number: int) -> np.ndarray:
        """What an adapter does to one part of a fused weight: all zeros if nothing."""
        name = self.columns[0]
        one = self._from_file(adapter.tensors[self.theirs[name]], name)
        size = one.shape[-1] // module.parts
        return one[..., number * size : (number + 1) * size]

    def _to_file(self, array: np.ndarray) -> np.ndarray:
        return array[:, None] if array.ndim == 1 else array.T

    def _from_file(self, tensor: np.ndarray, name: str) -> np.ndarray:
        return tensor[:, 0] if name == "e" else tensor.T

    def method(
        self,
        fields: Mapping[str, Any],
        tensors: Mapping[str, np.ndarray],
        ranks: Sequence[int],
        scales: Sequence[float],
        dtype: Any,
    ) -> Method:
        """Our method of this rank and scale."""
        if len(set(ranks)) > 1 or len(set(scales)) > 1:
            raise ValueError(
                f"{self.ours.__name__} has one rank and alpha for all layers of a stack here, but "
                f"the file has ranks {list(ranks)} and scales {list(scales)}"
            )
        del tensors
        options: dict[str, Any] = {"dtype": dtype}
        if self.ours is LoKr:
            options["decompose_both"] = bool(fields.get("decompose_both"))
            options["factor"] = fields.get("decompose_factor", -1)
        if self.ours is AdaLoRA:
            options["dropout"] = fields.get("lora_dropout") or 0.0
        slack = 1e-5 if self.ours is AdaLoRA else 0.0  # PEFT divides by a rank that may be zero
        alpha = plain_number(round(scales[0] * (ranks[0] + slack), 9))
        made: Method = self.ours(ranks[0], alpha, **options)
        return made


def _check_rest(
    module: Module, parts: Sequence[Part], adapters: Mapping[str, Adapter], form: MatrixForm
) -> None:
    """Refuses an adapter that changes parts of a fused weight which the lift leaves alone."""
    for number in set(module.rows) - {part.number for part in parts}:
        for name, adapter in adapters.items():
            if form.unfused(module, adapter, number).any():
                raise ValueError(
                    f"the adapter of {name} also changes {module.rows[number].path!r}, which this "
                    "lift does not adapt"
                )


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


LOHA = MatrixForm(
    "LOHA",
    LoHa,
    {"a1": "hada_w1_b", "b1": "hada_w1_a", "a2": "hada_w2_b", "b2": "hada_w2_a"},
)
LOKR = MatrixForm(
    "LOKR", LoKr, {n: f"lokr_{n}" for n in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")}
)
ADALORA = MatrixForm(
    "ADALORA",
    AdaLoRA,
    {"a": "lora_A", "e": "lora_E", "b": "lora_B"},
    columns=("b",),
    kinds=(LINEAR, CONV1D),
)
