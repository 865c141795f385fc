"""Quantising while reading: a layer at a time, so that the exact model is never in memory."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from lora_jax.hub.names import Index
from lora_jax.lifting import path_name
from lora_jax.quantization import choose, packed_shardings, quantize_array
from lora_jax.quantization.tree import BLOCK, check_kind


class Quantization(NamedTuple):
    """How weights are quantised while they are read: the arguments of `lora.quantize`."""

    kind: str
    keep: Sequence[str] = ()
    block: int = BLOCK

    def paths(self, shapes: Mapping[str, Any]) -> set[str]:
        """The paths of the weights to be quantised.

        Args:
            shapes: the model's params as nested dicts of `jax.ShapeDtypeStruct`.

        Raises:
            ValueError: as `lora.quantize`.
        """
        leaves = {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(shapes)}
        return set(choose(leaves, self.keep, self.block))


def as_quantization(asked: str | Mapping[str, Any] | None) -> Quantization | None:
    """Reads what `load_model` was asked for.

    Raises:
        ValueError: an unknown kind, or a mapping with other fields than `lora.quantize` has.
    """
    if asked is None:
        return None
    try:
        how = Quantization(asked) if isinstance(asked, str) else Quantization(**asked)
    except TypeError:
        raise ValueError(
            f"quantize={asked!r}: give a kind, or a mapping with "
            f"{', '.join(Quantization._fields)}, of which kind is needed"
        ) from None
    check_kind(how.kind)
    return how


def read_quantized(
    read: Callable[[Index], np.ndarray],
    shape: tuple[int, ...],
    how: Quantization,
    sharding: jax.sharding.Sharding | None,
) -> Any:
    """Reads and quantises one weight, matrix by matrix.

    Args:
        read: reads the slice at an index of the weight.
        shape: `[*stack, in, out]`, of the whole weight.
        how: the kind and its block.
        sharding: where the exact weight would live; its arrays are put there.

    Returns:
        The quantised weight. Memory holds it and, at any moment, one exact matrix.

    Raises:
        ValueError: NaN or infinity.
    """
    arrays: list[np.ndarray] = []
    structure: Any = None
    for place in itertools.product(*map(range, shape[:-2])):
        index = (*(slice(i, i + 1) for i in place), slice(None), slice(None))
        matrix = quantize_array(jnp.asarray(read(index).reshape(shape[-2:])), how.kind, how.block)
        parts, structure = jax.tree.flatten(matrix)
        arrays = arrays or [np.empty((*shape[:-2], *part.shape), part.dtype) for part in parts]
        for whole, part in zip(arrays, parts, strict=True):
            whole[place] = part
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("holds NaN or infinity, which cannot be quantised")
    weight = jax.tree.unflatten(structure, arrays)
    if sharding is None:
        return jax.tree.map(jnp.asarray, weight)
    if not isinstance(sharding, NamedSharding):
        raise ValueError(f"is quantised: give it a NamedSharding, not {type(sharding).__name__}")
    return jax.tree.map(_put, weight, packed_shardings(weight, sharding))


def _put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
