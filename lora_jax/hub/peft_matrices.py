"""PEFT's forms of methods whose arrays it holds as we do, transposed or not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lora_jax.hub.peft_form import Adapter, Part, check_axes, method_of, raise_without_form
from lora_jax.hub.peft_lora import check_ranks, check_scale, plain_number
from lora_jax.hub.peft_modules import CONV1D, LINEAR, WINDOW, Module
from lora_jax.lifting import Method
from lora_jax.methods import AdaLoRA, Fused, GraLoRA, LoHa, LoKr, MiSS

Arrays = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class MatrixForm:
    """A method whose arrays PEFT holds layer by layer.

    Attributes:
      peft_type: PEFT's name of it.
      ours: our method.
      theirs: PEFT's name of each of our arrays.
      make: our method from the fields of the config, the rank, the scale of ΔW and the dtype.
      columns: our arrays whose last axis is that of the outputs, which alone differ between parts
        of a fused weight.
      as_is: our arrays that PEFT holds as we do; the others it holds transposed.
      kinds: of weights that PEFT has it for.
    """

    peft_type: str
    ours: type
    theirs: Mapping[str, str]
    make: Callable[[Mapping[str, Any], int, float, Any], Method]
    columns: tuple[str, ...] = ()
    as_is: tuple[str, ...] = ()
    kinds: tuple[str, ...] = (LINEAR,)

    def check(self, module: Module, parts: Sequence[Part]) -> None:
        """Checks that PEFT has a place for the adapters of these sites."""
        for part in parts:
            check_axes(module, part)
            name = self.ours.__name__
            if module.kind not in self.kinds:
                known = " and ".join(f"{kind}s" for kind in self.kinds)
                raise_without_form(name, module, part, f"a {module.kind}, and it has for {known}")
            whole = isinstance(part.site.method, Fused) and len(parts) == module.parts
            if module.parts > 1 and not self._columns(part) and not whole:
                why = (
                    "its blocks there run across the parts of a fused weight: adapt all parts by "
                    "Fused, or by LoRA, which can be joined"
                )
                raise_without_form(str(part.site.method), module, part, why)
            if self.ours is LoKr and method_of(part.site).window != _pixels(module):
                why = f"there LoKr(window={_pixels(module)}) splits no channel"
                raise_without_form(str(part.site.method), module, part, why)

    def _columns(self, part: Part) -> tuple[str, ...]:
        """Our arrays that hold outputs of a part alone."""
        return () if self.runs_across(method_of(part.site)) else self.columns

    def runs_across(self, method: Any) -> bool:
        """Whether blocks of a method run across the parts of a fused weight."""
        return not self.columns or getattr(method, "mini", None) is not None

    def fitted(self, method: Any, module: Module, number: int) -> Method:
        """The method for our form of a module: a part of it, or a convolution as a product."""
        if self.ours is LoKr:
            method = dataclasses.replace(method, window=_pixels(module))
        if module.parts > 1 and self.runs_across(method):
            return Fused(method, number, module.parts)
        return method

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
            if name in self._columns(parts[0]):
                one = (*one[:-1], one[-1] * module.parts)
            tensor = self._to_file(np.empty(one, "?"), name)
            shapes[self.theirs[name]] = _with_window(module, name, tensor).shape
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
                if name in self._columns(first) and module.parts > 1:
                    own = {part.number: part.arrays[name][place] for part in parts}
                    zeros = np.zeros_like(one)
                    columns = [own.get(number, zeros) for number in range(module.parts)]
                    one = np.concatenate(columns, axis=-1)
                tensors[self.theirs[name]] = _with_window(module, name, self._to_file(one, name))
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
                    tensor = adapter.tensors[self.theirs[name]]
                    if module.kind == WINDOW and tensor.ndim > 2:
                        tensor = tensor.reshape(len(tensor), -1)
                    one = self._from_file(tensor, name)
                    if name in self._columns(part):
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

    def _to_file(self, array: np.ndarray, name: str) -> np.ndarray:
        if name in self.as_is:
            return array
        return array[:, None] if array.ndim == 1 else array.T

    def _from_file(self, tensor: np.ndarray, name: str) -> np.ndarray:
        if name in self.as_is:
            return tensor
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
        del tensors
        check_ranks(self.ours.__name__, ranks)
        if len(set(scales)) > 1:
            raise ValueError(
                f"{self.ours.__name__} has one alpha for all layers of a stack here, but the file "
                f"has scales {list(scales)}"
            )
        return self.make(fields, ranks[0], scales[0], dtype)


def _pixels(module: Module) -> int:
    """How many inputs of a convolution over patches belong to one channel; 1 elsewhere."""
    return math.prod(next(iter(module.rows.values())).window[1:])


def _with_window(module: Module, name: str, tensor: np.ndarray) -> np.ndarray:
    """LoKr's W₂ of a convolution with the sides of its window."""
    if module.kind != WINDOW or name != "w2":
        return tensor
    window = next(iter(module.rows.values())).window
    return tensor.reshape(len(tensor), -1, *window[1:])


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


def _loha(fields: Mapping[str, Any], rank: int, scale: float, dtype: Any) -> Method:
    del fields
    return LoHa(rank, _alpha(scale, rank), dtype=dtype)


def _lokr(fields: Mapping[str, Any], rank: int, scale: float, dtype: Any) -> Method:
    both, factor = bool(fields.get("decompose_both")), fields.get("decompose_factor") or -1
    return LoKr(rank, _alpha(scale, rank), decompose_both=both, factor=factor, dtype=dtype)


def _adalora(fields: Mapping[str, Any], rank: int, scale: float, dtype: Any) -> Method:
    alpha = _alpha(scale, rank + 1e-5)  # PEFT divides by a rank that may be zero
    return AdaLoRA(rank, alpha, dropout=fields.get("lora_dropout") or 0.0, dtype=dtype)


def _miss(fields: Mapping[str, Any], rank: int, scale: float, dtype: Any) -> Method:
    del scale
    mini = fields.get("mini_r") or 1 if fields.get("init_weights") == "mini" else None
    return MiSS(rank, mini=mini, dropout=fields.get("miss_dropout") or 0.0, dtype=dtype)


def _gralora(fields: Mapping[str, Any], rank: int, scale: float, dtype: Any) -> Method:
    hybrid = fields.get("hybrid_r") or 0
    return GraLoRA(
        rank,
        _alpha(scale, rank + hybrid),
        k=fields.get("gralora_k") or 2,
        hybrid=hybrid,
        dropout=fields.get("gralora_dropout") or 0.0,
        dtype=dtype,
    )


def _alpha(scale: float, divisor: float) -> float:
    return plain_number(round(scale * divisor, 9))


LOHA = MatrixForm(
    "LOHA",
    LoHa,
    {"a1": "hada_w1_b", "b1": "hada_w1_a", "a2": "hada_w2_b", "b2": "hada_w2_a"},
    _loha,
    columns=("b1", "b2"),
    kinds=(LINEAR, WINDOW),
)
LOKR = MatrixForm(
    "LOKR",
    LoKr,
    {name: f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")},
    _lokr,
    kinds=(LINEAR, WINDOW),
)
ADALORA = MatrixForm(
    "ADALORA",
    AdaLoRA,
    {"a": "lora_A", "e": "lora_E", "b": "lora_B"},
    _adalora,
    columns=("b",),
    kinds=(LINEAR, CONV1D, WINDOW),
)
MISS = MatrixForm("MISS", MiSS, {"b": "miss_block"}, _miss, columns=("b",), as_is=("b",))
GRALORA = MatrixForm(
    "GRALORA",
    GraLoRA,
    {
        "a": "gralora_A",
        "b": "gralora_B",
        "ga": "gralora_A_general",
        "gb": "gralora_B_general",
    },
    _gralora,
    as_is=("a", "b"),
    kinds=(LINEAR, CONV1D),
)
