"""PEFT's forms of LoHa, LoKr and AdaLoRA: our arrays transposed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lora_jax.hub.peft_form import Adapter, Part, check_axes, raise_without_form
from lora_jax.hub.peft_lora import check_scale, plain_number
from lora_jax.hub.peft_modules import CONV1D, LINEAR, Module
from lora_jax.lifting import Method
from lora_jax.methods import AdaLoRA, LoHa, LoKr

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
