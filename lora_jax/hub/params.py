"""From the tensors in files to the params of a model, in stored type, one array at a time."""

import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.hub.names import Index, Names, Stored
from lora_jax.hub.quantized import Quantization, read_quantized
from lora_jax.hub.safetensors import Tensors
from lora_jax.lifting import path_name
from lora_jax.nearest import nearest

Shapes = Mapping[str, Any]
ShardingOf = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]

# The types that weights may be stored in, as safetensors and as JAX spell them.
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def read_params(
    tensors: Tensors,
    names: Names,
    shapes: Shapes,
    *,
    dtype: str | None = None,
    sharding: ShardingOf | None = None,
    ignore: Sequence[str] = (),
    quantization: Quantization | None = None,
) -> dict[str, Any]:
    """Reads the params of a model. All names and shapes are checked before anything is read.

    Memory holds the params and, at any moment, one further array: the one being put together.

    Args:
        tensors: the open files.
        names: the table of the family.
        shapes: nested dicts of `jax.ShapeDtypeStruct`, as `models.build` gives them.
        dtype: type to convert to while reading; None keeps the stored one.
        sharding: gives the sharding of a parameter from its path and shape. Then only the slices
            that this process holds are read.
        ignore: regular expressions of further tensors that the model does not need.
        quantization: how linear weights are quantised while they are read; None: not.

    Returns:
        Nested dicts of arrays.

    Raises:
        ValueError: a tensor is missing, unexpected, or of a wrong shape or type.
    """
    shape_of = {path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(shapes)}
    rows = [row for row in names.stored if row.path in shape_of]
    named = _by_canonical_name(names, tensors)
    sources = [_Source(row, shape_of[row.path], named, tensors, dtype) for row in rows]
    for source in sources:
        source.check()
    used = {name for source in sources for name in source.names}
    _check_unexpected(used, named, tensors, (*names.unused, *ignore))
    quantized = quantization.paths(shapes) if quantization else set()
    params: dict[str, Any] = {}
    for source in sources:
        path = source.row.path
        _insert(params, path, _place(source, sharding, quantization if path in quantized else None))
    return params


def _by_canonical_name(names: Names, tensors: Tensors) -> dict[str, str]:
    named: dict[str, str] = {}
    for name in tensors.names:
        canonical = names.canonical(name)
        if canonical in named:
            raise ValueError(
                f"{tensors} holds both {named[canonical]!r} and {name!r}: the same tensor"
            )
        named[canonical] = name
    return named


class _Source:
    """A parameter of the model as it lies in the files.

    Args:
        row: its row in the table of the family.
        shape: the shape that the model asks for.
        named: the name in the files of each canonical name.
        tensors: the open files.
        dtype: type to convert to; None keeps the stored one.
    """

    def __init__(
        self,
        row: Stored,
        shape: tuple[int, ...],
        named: Mapping[str, str],
        tensors: Tensors,
        dtype: str | None,
    ) -> None:
        self.row = row
        self.shape = shape
        if (count := math.prod(shape[: row.stacked_axes])) > len(named):
            raise ValueError(
                f"config.json asks for {count} tensors {row.name!r} (for {row.path}), but "
                f"{tensors} holds {len(named)} tensors in all"
            )
        self.names = row.names(shape)
        self._named = named
        self._tensors = tensors
        self._dtype = dtype

    def check(self) -> None:
        """Checks from the headers alone that every tensor is there and fits."""
        dtypes: dict[str, str] = {}
        for name in self.names:
            if name not in self._named:
                self._raise_missing(name)
            self._check_shape(name)
            dtypes.setdefault(self._tensors.dtype(self._named[name]), name)
        unreadable = set(dtypes) - set(DTYPES)
        if unreadable:
            dtype = unreadable.pop()
            raise ValueError(
                f"tensor {dtypes[dtype]!r} in {self._file(dtypes[dtype])} is {dtype}, "
                f"not one of {', '.join(DTYPES)}"
            )
        if len(dtypes) > 1 and self._dtype is None:
            found = ", ".join(f"{name!r} is {dtype}" for dtype, name in dtypes.items())
            raise ValueError(
                f"the layers of {self.row.path} differ in type ({found}): give a dtype"
            )

    def read(self, index: Index | None = None) -> np.ndarray:
        """Reads the slice at `index` of the parameter, or all of it."""
        index = index or (slice(None),) * len(self.shape)
        axes = self.row.stacked_axes
        if not axes:
            return self._read_one(self.names[0], index)
        places = np.arange(len(self.names)).reshape(self.shape[:axes])[index[:axes]]
        names = [self.names[i] for i in places.flat]
        first = self._read_one(names[0], index[axes:])
        stack = np.empty((len(names), *first.shape), first.dtype)
        for i, name in enumerate(names):
            stack[i] = self._read_one(name, index[axes:])
        return stack.reshape(*places.shape, *first.shape)

    def _read_one(self, name: str, index: Index) -> np.ndarray:
        row, shape = self.row, self.shape[self.row.stacked_axes :]
        if row.window:  # its flat axis cannot be sliced in the file; such a tensor is small
            array = row.from_file(self._tensors.read(self._named[name]))[index]
        else:
            found = self._tensors.read(self._named[name], row.stored_index(index, shape))
            array = row.from_file(found)
        return array if self._dtype is None else array.astype(self._dtype, copy=False)

    def _check_shape(self, name: str) -> None:
        wanted = self.row.stored_shape(self.shape)
        found = self._tensors.shape(self._named[name])
        if found != wanted:
            raise ValueError(
                f"tensor {self._named[name]!r} in {self._file(name)} has shape {found}, "
                f"but config.json makes it {wanted}"
            )

    def _raise_missing(self, name: str) -> None:
        found = [self._named[one] for one in nearest(name, self._named, 3, likeness=0.3)]
        near = ", ".join(map(repr, found)) or "none is like it"
        raise ValueError(
            f"no tensor {name!r} (for {self.row.path}) in {self._tensors}; nearest: {near}"
        )

    def _file(self, name: str) -> Path:
        return self._tensors.file(self._named[name])


def _check_unexpected(
    used: Set[str], named: Mapping[str, str], tensors: Tensors, ignore: Sequence[str]
) -> None:
    unexpected = [
        named[name]
        for name in sorted(set(named) - used)
        if not any(re.fullmatch(pattern, name) for pattern in ignore)
    ]
    if unexpected:
        more = f" and {len(unexpected) - 3} more" if len(unexpected) > 3 else ""
        raise ValueError(
            f"{tensors} holds tensors that the model of config.json has no place for: "
            f"{', '.join(unexpected[:3])}{more}; pass regular expressions of those to leave out as "
            "ignore=(...)"
        )


def _place(source: _Source, sharding: ShardingOf | None, how: Quantization | None) -> Any:
    wanted = None if sharding is None else sharding(source.row.path, source.shape)
    if how is not None:
        try:
            return read_quantized(source.read, source.shape, how, wanted)
        except ValueError as error:
            raise ValueError(f"params[{source.row.path!r}] {error}") from None
    if wanted is None:
        return jnp.asarray(source.read())
    return jax.make_array_from_callback(source.shape, wanted, source.read)


def _insert(tree: dict[str, Any], path: str, leaf: Any) -> None:
    *parents, name = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = leaf
