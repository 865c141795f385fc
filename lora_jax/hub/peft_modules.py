"""The modules of transformers that hold our weights, as PEFT names them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from lora_jax.hub.families import FAMILIES
from lora_jax.hub.names import Names, Stored
from lora_jax.hub.peft_classes import AUTO, BARE, CLASSES, Class, is_bare, task_of, tied_head
from lora_jax.lifting import is_packed, path_name
from lora_jax.models import build
from lora_jax.models.registry import Apply

# Kinds of weights, which PEFT treats each in its own way.
LINEAR, CONV1D, TABLE, WINDOW, EXPERTS, OTHER = (
    "linear layer",
    "Conv1D",
    "embedding",
    "convolution",
    "experts",
    "other",
)


_EXPERT = re.compile(r"(.*\.experts)\.\{expert\}\.(\w+)\.weight")
# transformers keeps the weights of all experts of a layer in two parameters, in this order.
EXPERT_PARAMETERS = ("gate_up_proj", "down_proj")
_EXPERT_PARTS = {
    "w1": ("gate_up_proj", (0, 2)),
    "w3": ("gate_up_proj", (1, 2)),
    "w2": ("down_proj", (0, 1)),
    "gate_proj": ("gate_up_proj", (0, 2)),
    "up_proj": ("gate_up_proj", (1, 2)),
    "down_proj": ("down_proj", (0, 1)),
}


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity
class Module:
    """A tensor of transformers, one in each layer, and our parameters that are its parts.

    Attributes:
        name: of the module, with `{layer}` in it where there is one in each layer.
        short: the same without what stands before the backbone.
        parameter: of the tensor in the module, such as "weight".
        kind: what kind of weight it is.
        rows: the rows of our parameters, by the number of the part; parts are equal in size.
        shape: of each of our parameters.
    """

    name: str
    short: str
    parameter: str
    kind: str
    rows: Mapping[int, Stored]
    shape: tuple[int, ...]

    @property
    def parts(self) -> int:
        """How many equal parts the last axis of the tensor has."""
        return next(iter(self.rows.values())).part[1] if self.kind != EXPERTS else len(self.rows)

    @property
    def places(self) -> list[tuple[int, ...]]:
        """The index of each layer in our stacked parameters; one empty index without layers."""
        return [(i,) for i in range(self.shape[0])] if "{layer}" in self.name else [()]

    @property
    def one_shape(self) -> tuple[int, ...]:
        """The shape of our parameter in one layer, with the axis of experts if there is one."""
        return self.shape[1:] if "{layer}" in self.name else self.shape

    def at(self, place: tuple[int, ...], name: str | None = None) -> str:
        """The name of the module in one layer."""
        return (self.name if name is None else name).format(layer=place[0] if place else 0)


class Layout(NamedTuple):
    """The modules of a model.

    Args:
        modules: all that hold a parameter of the model.
        names: the table of the family.
        task_type: PEFT's name of what the model is for; None where it has none.
        tied: the name of the module that multiplies with the embedding once more, or None.
        found: for each name of a module and its parameter, its number among the modules and the
            place of its layer.
    """

    modules: tuple[Module, ...]
    names: Names
    task_type: str | None
    tied: str | None
    found: Mapping[tuple[str, str], tuple[int, tuple[int, ...]]]

    def find(self, name: str, parameter: str) -> tuple[Module, tuple[int, ...]] | None:
        """The module that a file means by a name, whatever class saved it, and its layer."""
        canonical = self.names.canonical(f"{name}.weight").removesuffix(".weight")
        for one in (name, canonical):
            if (one, parameter) in self.found:
                number, place = self.found[one, parameter]
                return self.modules[number], place
        return None

    def owner(self, path: str) -> tuple[Module, int] | None:
        """The module that holds a parameter of ours, and which part of it that is."""
        for module in self.modules:
            for part, row in module.rows.items():
                if row.path == path:
                    return module, part
        return None


def find_layout(
    function: Any,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    config: Any = None,
    names: Names | None = None,
    task_type: str | None = AUTO,
) -> Layout:
    """Finds out how the modules of a model are called.

    The class of transformers decides what stands before the names: a model with a head holds its
    backbone under a name, such as "model.", the bare backbone (task "FEATURE_EXTRACTION", and
    encoders without a head of ours) does not.

    Args:
        function: the function that was lifted.
        shapes: shapes of parameters by path, for models whose config is not known.
        config: the config of the model; None takes that of the function.
        names: a table of names of modules of another model, taken as they are.
        task_type: a task of PEFT or None; "auto" takes what the model is for.

    Raises:
        ValueError: nothing tells how the modules are called.
    """
    if names is not None:
        return _layout(names, shapes, Class(), None if task_type == AUTO else task_type)
    if config is None and isinstance(function, Apply):
        config = function.config
    model_type = getattr(config, "model_type", None)
    if model_type not in FAMILIES:
        raise ValueError(
            "the lifted function is no model of lora_jax.hub, so nothing tells how PEFT calls its "
            "modules: give config=, the config of the model inside, or names=, a table of them"
        )
    names = FAMILIES[model_type].names(config)
    leaves = jax.tree.leaves_with_path(build(config).shapes)
    task = task_of(config) if task_type == AUTO else task_type
    cls = CLASSES.get(model_type, Class())
    by_path = {path_name(path): leaf.shape for path, leaf in leaves}
    bare = task == BARE or (task is None and is_bare(config, by_path))
    layout = _layout(names, by_path, cls._replace(backbone="") if bare else cls, task)
    return layout._replace(tied=None if bare else tied_head(config))


def _layout(
    names: Names, shapes: Mapping[str, tuple[int, ...]], cls: Class, task_type: str | None
) -> Layout:
    groups: dict[str, dict[int, Stored]] = {}
    for row in names.stored:
        if row.path in shapes:
            name, (part, _) = _merged(row)
            groups.setdefault(name, {})[part] = row
    modules = tuple(
        _module(name, rows, shapes[next(iter(rows.values())).path], cls)
        for name, rows in groups.items()
    )
    found = {}
    for number, (module, name) in enumerate(zip(modules, groups, strict=True)):
        in_files = name.rpartition(".")[0]
        for place in module.places:
            for spelt in {module.name, module.short, in_files}:
                found[module.at(place, spelt), module.parameter] = (number, place)
    return Layout(modules, names, task_type, None, found)


def _merged(row: Stored) -> tuple[str, tuple[int, int]]:
    """The name of a tensor of transformers, and which part of it a row is."""
    match = _EXPERT.fullmatch(row.name)
    if match is None:
        return row.name, row.part
    parameter, part = _EXPERT_PARTS[match[2]]
    return f"{match[1]}.{parameter}", part


def _module(tensor: str, rows: Mapping[int, Stored], shape: tuple[int, ...], cls: Class) -> Module:
    name, _, parameter = tensor.rpartition(".")
    short = f"{name}."
    for old, new in cls.renames.items():
        short = re.sub(old, new, short)
    beside = re.match(cls.beside, f"{name}.") is not None
    short = short.removesuffix(".")
    row = next(iter(rows.values()))
    return Module(
        name=short if beside else cls.backbone + short,
        short=short,
        parameter=parameter,
        kind=_kind(row, parameter, len(shape)),
        rows=dict(sorted(rows.items())),
        shape=shape,
    )


def _kind(row: Stored, parameter: str, axes: int) -> str:
    if "{expert}" in row.name:
        return EXPERTS
    if parameter != "weight":
        return OTHER
    if row.path.endswith("/embedding"):
        return TABLE
    if row.window:
        return WINDOW
    if axes - row.stacked_axes != 2:
        return OTHER
    return LINEAR if row.transpose else CONV1D


class Base(Mapping[str, Any]):
    """The frozen params by path, quantised ones made dense when they are asked for.

    Args:
        params: the base; None for an empty one.
    """

    def __init__(self, params: Any) -> None:
        leaves = jax.tree.leaves_with_path(params, is_leaf=is_packed)
        self._leaves = {path_name(path): leaf for path, leaf in leaves}

    def __getitem__(self, path: str) -> Any:
        leaf = self._leaves[path]
        return leaf.dequantize() if is_packed(leaf) else leaf

    def __iter__(self) -> Iterator[str]:
        return iter(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each, without making any dense."""
        return {path: tuple(leaf.shape) for path, leaf in self._leaves.items()}

    @property
    def is_quantised(self) -> bool:
        """Whether any of them is."""
        return any(map(is_packed, self._leaves.values()))


def tensor_of(module: Module, place: tuple[int, ...], values: Mapping[str, Any]) -> np.ndarray:
    """The tensor of a module in one layer as transformers holds it, from our parameters."""
    parts = [np.asarray(values[row.path][place]) for row in module.rows.values()]
    row = next(iter(module.rows.values()))
    return row.to_file(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1))
