"""Pairs of factors as PEFT holds them, B·A of one module, fused weights as one: LoRA, DoRA, HiRA.

The weight of a fused module (GPT-2's `c_attn`, the gate and up projections of experts) is one
matrix, so its adapter is one pair too. For parts that have adapters of their own,

    A = [A₁; A₂],   B = [[B₁, 0], [0, B₂]]

whose rank is the sum of theirs. Parts that share one A, as an adapter that was trained on the
fused matrix does when it is split, share it in the file as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lora_jax.hub.peft_form import Adapter, Part, check_axes, raise_without_form
from lora_jax.hub.peft_modules import EXPERTS, TABLE, WINDOW, Module
from lora_jax.lifting import Method
from lora_jax.methods import DoRA, HiRA, LoRA

_MAGNITUDE = "lora_magnitude_vector"


class LoRAForm:
    """PEFT's form of LoRA and DoRA."""

    peft_type = "LORA"
    stem = "lora"

    def check(self, module: Module, parts: Sequence[Part]) -> None:
        """Checks that PEFT has a place for the adapters of these sites."""
        for part in parts:
            check_axes(module, part)
            if module.kind == EXPERTS and isinstance(part.site.method, DoRA | HiRA):
                name = type(part.site.method).__name__
                raise_without_form(name, module, part, "experts have LoRA alone")
        if len({isinstance(part.site.method, DoRA) for part in parts}) > 1:
            raise ValueError(
                f"{module.name} is one module in PEFT: adapt its parts all by LoRA or all by DoRA"
            )

    def names(self, module: Module, parts: Sequence[Part]) -> list[str]:
        """The arrays of a module's adapter."""
        pair = self._pair(module)
        return [*pair, _MAGNITUDE] if isinstance(parts[0].site.method, DoRA) else [*pair]

    def _pair(self, module: Module) -> tuple[str, str]:
        stem = f"{self.stem}_embedding" if module.kind == TABLE else self.stem
        return f"{stem}_A", f"{stem}_B"

    def shapes(
        self, module: Module, parts: Sequence[Part], rank: int
    ) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays of an adapter in one layer."""
        *front, size = module.one_shape
        experts, ins = (front[:1], front[1:]) if module.kind == EXPERTS else ([], front)
        a = np.empty((*experts, *ins, rank), "?")
        b = np.empty((*experts, rank, size * module.parts), "?")
        pair = zip(self._pair(module), _to_file(module, a, b), strict=True)
        shapes = {name: tensor.shape for name, tensor in pair}
        if isinstance(parts[0].site.method, DoRA):
            sides = [1] * _sides(module)
            outs = size * module.parts
            shapes[_MAGNITUDE] = (1, outs, *sides) if module.kind == WINDOW else (outs,)
        return shapes

    def write(
        self, module: Module, parts: Sequence[Part], base: Mapping[str, Any] | None
    ) -> dict[str, Adapter]:
        """The adapters of a module, by its name in each layer."""
        shared = _is_shared(parts)
        adapters = {}
        for i, place in enumerate(module.places):
            ranks = [part.ranks[i] for part in parts]
            if not any(ranks):
                continue
            scale = next(part.scales[i] for part in parts if part.ranks[i])
            weights = [part.scales[i] / scale for part in parts]
            pair = _to_file(module, *_join(module, parts, place, ranks, weights, shared))
            tensors = dict(zip(self._pair(module), pair, strict=True))
            if isinstance(parts[0].site.method, DoRA):
                tensors[_MAGNITUDE] = _join_magnitudes(module, parts, place, base)
            rank = ranks[0] if shared else sum(ranks)
            adapters[module.at(place)] = Adapter(tensors, rank, scale)
        return adapters

    def read(
        self, module: Module, parts: Sequence[Part], adapters: Mapping[str, Adapter]
    ) -> dict[str, dict[str, np.ndarray]]:
        """The arrays of the sites of a module, by their paths."""
        found = {
            part.site.path: {
                name: np.zeros(array.shape, array.dtype) for name, array in part.site.arrays.items()
            }
            for part in parts
        }
        for i, place in enumerate(module.places):
            name = module.at(place)
            if name not in adapters:
                continue
            adapter = adapters[name]
            a, b = (adapter.tensors[array] for array in self._pair(module))
            pair = _from_file(module, a, b, adapter.rank)
            split = _split(module, parts, pair, [part.ranks[i] for part in parts], name)
            check_scale(name, parts, adapter, i)
            for part, (a, b) in zip(parts, split, strict=True):
                arrays, rank = found[part.site.path], part.ranks[i]
                own_a = arrays["a"][place][..., :rank]
                own_a[...] = a.reshape(own_a.shape)
                # Where parts differ in scale, B holds the ratio.
                ratio = adapter.scale / part.scales[i]
                arrays["b"][place][..., :rank, :] = b if abs(ratio - 1) < 1e-6 else b * ratio
                if "m" in arrays:
                    m = adapter.tensors[_MAGNITUDE].reshape(module.parts, -1)
                    arrays["m"][place] = m[part.number]
        return found

    def method(
        self,
        fields: Mapping[str, Any],
        tensors: Mapping[str, np.ndarray],
        ranks: Sequence[int],
        scales: Sequence[float],
        dtype: Any,
    ) -> Method:
        """LoRA or DoRA of these ranks and scales."""
        rs = bool(fields.get("use_rslora"))
        usual = max(ranks)
        alphas = [
            plain_number(scale * (math.sqrt(rank) if rs else rank)) if rank else None
            for rank, scale in zip(ranks, scales, strict=True)
        ]
        first = next(alpha for alpha in alphas if alpha is not None)
        options: dict[str, Any] = {
            "rs": rs,
            "dropout": fields.get("lora_dropout") or 0.0,
            "dtype": dtype,
        }
        if len(set(ranks)) > 1:
            options["ranks"] = tuple(ranks)
        if len(set(alphas) - {None}) > 1:
            options["alphas"] = tuple(first if alpha is None else alpha for alpha in alphas)
        kind = DoRA if _MAGNITUDE in tensors else LoRA
        return kind(usual, first, **options)


class HiRAForm(LoRAForm):
    """PEFT's form of HiRA: a pair such as LoRA's, which W multiplies instead of a scale."""

    peft_type = "HIRA"
    stem = "hira"

    def method(
        self,
        fields: Mapping[str, Any],
        tensors: Mapping[str, np.ndarray],
        ranks: Sequence[int],
        scales: Sequence[float],
        dtype: Any,
    ) -> Method:
        """HiRA of this rank."""
        del tensors, scales
        check_ranks("HiRA", ranks)
        return HiRA(ranks[0], dropout=fields.get("hira_dropout") or 0.0, dtype=dtype)


def plain_number(value: float) -> float:
    """A whole number where it is one but for rounding."""
    return round(value) if abs(value - round(value)) < 1e-9 * abs(value) else value


def check_ranks(name: str, ranks: Sequence[int]) -> None:
    """Checks that a method which has one rank for a stack of layers has it in all of them."""
    if len(set(ranks)) > 1 or not all(ranks):
        raise ValueError(
            f"{name} has one rank for all layers of a stack here, but the file has {list(ranks)}"
        )


def _is_shared(parts: Sequence[Part]) -> bool:
    first = parts[0]
    return all(
        np.array_equal(part.arrays["a"], first.arrays["a"])
        and part.ranks == first.ranks
        and part.scales == first.scales
        for part in parts
    )


def _join(
    module: Module,
    parts: Sequence[Part],
    place: tuple[int, ...],
    ranks: Sequence[int],
    weights: Sequence[float],
    shared: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """A (*experts, *in, rank) and B (*experts, rank, all outputs) of one layer."""
    a = [part.arrays["a"][place][..., :r] for part, r in zip(parts, ranks, strict=True)]
    b = [part.arrays["b"][place][..., :r, :] for part, r in zip(parts, ranks, strict=True)]
    first, size = b[0], b[0].shape[-1]
    rank = ranks[0] if shared else sum(ranks)
    joined = np.zeros((*first.shape[:-2], rank, size * module.parts), first.dtype)
    start = 0
    for part, own, r, weight in zip(parts, b, ranks, weights, strict=True):
        rows = slice(0, r) if shared else slice(start, start + r)
        columns = slice(part.number * size, (part.number + 1) * size)
        # Parts whose scales differ take the ratio into B: a module has one scale.
        joined[..., rows, columns] = own if weight == 1.0 else own * own.dtype.type(weight)
        start += r
    return a[0] if shared else np.concatenate(a, axis=-1), joined


def _join_magnitudes(
    module: Module, parts: Sequence[Part], place: tuple[int, ...], base: Mapping[str, Any] | None
) -> np.ndarray:
    given = {part.number: part.arrays["m"][place] for part in parts}
    if len(given) < module.parts and base is None:
        raise ValueError(
            f"PEFT keeps one magnitude for each output of {module.name}, of which only some parts "
            "are adapted: give the base as params="
        )
    values = []
    for number, row in module.rows.items():
        if number not in given and base is not None:
            kernel = np.asarray(base[row.path][place], np.float32)
            given[number] = np.sqrt((kernel**2).sum(axis=tuple(range(kernel.ndim - 1))))
        values.append(given[number])
    joined = np.concatenate(values)
    return joined.reshape(1, -1, *[1] * _sides(module)) if module.kind == WINDOW else joined


def _sides(module: Module) -> int:
    return len(next(iter(module.rows.values())).window) - 1


def _to_file(module: Module, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pair in PEFT's order of axes."""
    if module.kind == EXPERTS:
        # A holds the experts' ranks one expert after another, B one rank after another.
        return (
            a.swapaxes(1, 2).reshape(-1, a.shape[1]),
            b.transpose(2, 1, 0).reshape(b.shape[2], -1),
        )
    if module.kind == WINDOW:
        window = next(iter(module.rows.values())).window
        return a.T.reshape(-1, *window), b.T.reshape(*b.T.shape, *[1] * _sides(module))
    return a.T, b.T


def _from_file(
    module: Module, a: np.ndarray, b: np.ndarray, rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `_to_file`."""
    if module.kind == EXPERTS:
        experts = module.one_shape[0]
        return (
            a.reshape(experts, rank, -1).swapaxes(1, 2),
            b.reshape(b.shape[0], rank, experts).transpose(2, 1, 0),
        )
    return a.reshape(rank, -1).T, b.reshape(b.shape[0], rank).T


def _split(
    module: Module,
    parts: Sequence[Part],
    pair: tuple[np.ndarray, np.ndarray],
    ranks: Sequence[int],
    name: str,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each part's own A and B of one layer."""
    a, b = pair
    whole = b.shape[-2]
    size = b.shape[-1] // module.parts
    columns = {part.number: b[..., part.number * size : (part.number + 1) * size] for part in parts}
    for number, row in module.rows.items():
        if number not in columns and b[..., number * size : (number + 1) * size].any():
            raise ValueError(
                f"the adapter of {name} also changes {row.path!r}, which this lift does not adapt"
            )
    if all(rank == whole for rank in ranks):
        return [(a, columns[part.number]) for part in parts]
    starts = np.cumsum([0, *ranks])
    blocks = [slice(start, start + rank) for start, rank in zip(starts, ranks, strict=False)]
    separate = starts[-1] == whole and not any(
        np.delete(columns[part.number], np.r_[block], axis=-2).any()
        for part, block in zip(parts, blocks, strict=True)
    )
    if not separate:
        wanted = " and ".join(
            f"rank {rank} for {part.site.path!r}" for part, rank in zip(parts, ranks, strict=True)
        )
        raise ValueError(f"the adapter of {name} has rank {whole}, but the lift has {wanted}")
    return [
        (a[..., block], columns[part.number][..., block, :])
        for part, block in zip(parts, blocks, strict=True)
    ]


def check_scale(name: str, parts: Sequence[Part], adapter: Adapter, layer: int) -> None:
    """Checks that the file and the lift scale ΔW alike (the first part's, where parts differ)."""
    first = next((part for part in parts if part.ranks[layer]), parts[0])
    if not math.isclose(first.scales[layer], adapter.scale, rel_tol=1e-6):
        raise ValueError(
            f"the adapter of {name} scales ΔW by {adapter.scale:g}, but the method of "
            f"{first.site.path!r} by {first.scales[layer]:g}: lift with its alpha and rank"
        )
