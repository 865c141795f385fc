"""How the tensors of a family are called in Hugging Face checkpoints, as data."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Index = tuple[slice, ...]


class Stored(NamedTuple):
    """One of our parameters and the tensors it is read from.

    Args:
        path: our '/'-joined path.
        name: name of the tensor. With `{layer}`, or `{layer}` and `{expert}`, in it there is one
            tensor for each, stacked on leading axes of the parameter in this order.
        transpose: whether the file holds the axes of one tensor in reverse order.
        part: `(i, n)`: the parameter is the i-th of n equal parts of the tensor along the
            parameter's last axis, as in a fused query, key and value projection.
        window: for a convolution whose windows do not overlap, which is a product: the channels
            and sides of the window, which the file holds as axes of their own after the first.
        ones: how many axes of size 1 the file has before those of the parameter.
    """

    path: str
    name: str
    transpose: bool = False
    part: tuple[int, int] = (0, 1)
    window: tuple[int, ...] = ()
    ones: int = 0

    @property
    def stacked_axes(self) -> int:
        """How many leading axes of the parameter count tensors."""
        return self.name.count("{")

    def names(self, shape: tuple[int, ...]) -> list[str]:
        """The names of the tensors that make up a parameter of the given shape, in row order."""
        places = np.ndindex(*shape[: self.stacked_axes])
        kinds = ("layer", "expert")
        return [self.name.format(**dict(zip(kinds, place, strict=False))) for place in places]

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one tensor in the files, for a parameter of the given shape.

        >>> Stored("q/kernel", "qkv.weight", transpose=True, part=(0, 3)).stored_shape((8, 4))
        (12, 8)
        """
        if not shape[self.stacked_axes :]:
            return ()
        *front, last = shape[self.stacked_axes :]
        one = (*front, last * self.part[1])
        if self.window:
            return (one[-1], *self.window)
        return (1,) * self.ones + (one[::-1] if self.transpose else one)

    def stored_index(self, index: Index, shape: tuple[int, ...]) -> Index:
        """Where in a tensor of the files the slice at `index` of a parameter lies.

        Args:
            index: a slice for each axis of the parameter that is not stacked.
            shape: the shape of the parameter.
        """
        if not shape:
            return ()
        size = shape[-1]
        start, stop, _ = index[-1].indices(size)
        offset = self.part[0] * size
        one = (*index[:-1], slice(offset + start, offset + stop))
        return (slice(None),) * self.ones + (one[::-1] if self.transpose else one)

    def from_file(self, tensor: np.ndarray) -> np.ndarray:
        """Brings the axes of (a slice of) a tensor of the files into the parameter's order."""
        if self.window:
            tensor = tensor.reshape(len(tensor), -1)
        tensor = tensor.reshape(tensor.shape[self.ones :])
        return tensor.T if self.transpose else tensor

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """Brings the axes of a parameter, all parts joined, into the files' order."""
        tensor = array.T if self.transpose else array
        if self.window:
            return tensor.reshape(len(tensor), *self.window)
        return tensor.reshape((1,) * self.ones + tensor.shape)


def linear(path: str, name: str) -> tuple[Stored, Stored]:
    """The rows of a dense layer; torch.nn.Linear keeps its weight as [out, in]."""
    return Stored(f"{path}/kernel", f"{name}.weight", transpose=True), Stored(
        f"{path}/bias", f"{name}.bias"
    )


def norm(path: str, name: str) -> tuple[Stored, Stored]:
    """The rows of a layer normalisation."""
    return Stored(f"{path}/scale", f"{name}.weight"), Stored(f"{path}/bias", f"{name}.bias")


class Names(NamedTuple):
    """The table of a family.

    Args:
        stored: one row per parameter.
        prefixes: what may stand before every name, depending on the class that saved the file.
        renames: regular expressions of older spellings of a part of a name, and what they became.
        unused: regular expressions of tensors that are known and not needed.
        parts: tables of models inside this one, by what stands before their tensors' names; each
            brings the rest of such a name up to date. `nest` makes them.
    """

    stored: tuple[Stored, ...]
    prefixes: tuple[str, ...] = ()
    renames: Mapping[str, str] = {}
    unused: tuple[str, ...] = ()
    parts: Mapping[str, Any] = {}

    def canonical(self, name: str) -> str:
        """Removes the prefix of a tensor name and brings older spellings up to date.

        >>> Names((), prefixes=("bert.",), renames={r"gamma$": "weight"}).canonical("bert.n.gamma")
        'n.weight'
        """
        for prefix in self.prefixes:
            name = name.removeprefix(prefix)
        for old, new in self.renames.items():
            name = re.sub(old, new, name)
        for before, part in self.parts.items():
            if name.startswith(before):
                return before + part.canonical(name.removeprefix(before))
        return name


def nest(parts: Mapping[str, tuple[str, Names]], **own: Any) -> Names:
    """Makes the table of a model that holds other models.

    Args:
        parts: by our path of a part, what stands before its tensors' names, and its table.
        **own: further fields of `Names`. `unused` is added to that of the parts, and so is
            `stored`, whose rows replace those of the same path.

    Returns:
        One table.
    """
    stored, unused = list(own.pop("stored", ())), list(own.pop("unused", ()))
    replaced = {row.path for row in stored}
    for path, (before, names) in parts.items():
        stored += [
            row._replace(path=f"{path}/{row.path}", name=before + row.name)
            for row in names.stored
            if f"{path}/{row.path}" not in replaced
        ]
        unused += [f"{re.escape(before)}({pattern})" for pattern in names.unused]
    tables = dict(parts.values())
    return Names(tuple(stored), unused=tuple(unused), parts=tables, **own)
