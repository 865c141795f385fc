"""Packed weights: frozen weights in fewer bits, made dense only where they are consumed.

Any pytree with `Packed`'s attributes is one weight to the lifting (`quantization` has two). The
model is traced on its dense shape. A slice of its leading axes slices what it stores; any other
view waits, as `Deferred`, for the equation that consumes it. That equation and the dense weight it
needs are computed again in the backward pass: between the passes only the packed arrays are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax

from lora_jax import compat


class Packed(Protocol):
    """A weight that is stored as other arrays than its dense one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the dense weight."""
        ...

    @property
    def dtype(self) -> Any:
        """Of the dense weight."""
        ...

    @property
    def ndim(self) -> int:
        """Of the dense weight."""
        ...

    @property
    def leading(self) -> int:
        """How many axes of the weight every stored array starts with (layers, experts)."""
        ...

    def astype(self, dtype: Any) -> Packed:
        """The same arrays, which make a dense weight of another type."""
        ...

    def dequantize(self, dtype: Any = None) -> jax.Array:
        """The dense weight, in its own type or in another."""
        ...


@dataclasses.dataclass(frozen=True)
class Deferred:
    """What an equation makes of packed operands, computed where it is consumed.

    Attributes:
      operands: of the equation; some are packed.
      equation: as the model wrote it.
      result: which of its results this is.
    """

    operands: list[Any]
    equation: Any
    result: int

    # A scan or a slice finds no leading axes here: it would have to go through the equation.
    leading = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.equation.outvars[self.result].aval.shape)

    @property
    def dtype(self) -> Any:
        return self.equation.outvars[self.result].aval.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dequantize(self, dtype: Any = None) -> jax.Array:
        """The result, as an array."""
        value = bind(self.equation, [unpacked(value) for value in self.operands])[self.result]
        return value if dtype is None else value.astype(dtype)


jax.tree_util.register_dataclass(
    Deferred, data_fields=["operands"], meta_fields=["equation", "result"]
)


def is_packed(value: Any) -> bool:
    """Whether a leaf of params, or the base of a weight, is stored as other arrays."""
    return hasattr(value, "dequantize")


def unpacked(value: Any, dtype: Any = None) -> Any:
    """A packed weight as an array; anything else as it is. A `dtype` is that of the result."""
    if is_packed(value):
        return value.dequantize(dtype)
    return value if dtype is None else value.astype(dtype)


def abstract(value: Any) -> Any:
    """A packed weight as the dense shape that a model is traced on; anything else as it is."""
    return jax.ShapeDtypeStruct(value.shape, value.dtype) if is_packed(value) else value


def bind(equation: jex.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """Evaluates one equation as the model wrote it on other operands."""
    pairs = zip(equation.invars, operands, strict=True)
    env = {var: value for var, value in pairs if not isinstance(var, jex.Literal)}
    return compat.evaluate([equation], env, equation.outvars)


def view(equation: jex.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """The results of a view; those of packed operands stay packed."""
    if not any(map(is_packed, operands)):
        return bind(equation, operands)
    if (moved := _moved(equation, operands)) is not None:
        return [moved]
    return [Deferred(list(operands), equation, i) for i in range(len(equation.outvars))]


def consume(equation: jex.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """The results of a use. The backward pass makes packed operands dense again."""
    if not any(map(is_packed, operands)):
        return bind(equation, operands)
    if (moved := _moved(equation, operands)) is not None:
        return [moved]

    def dequantize_and_bind(operands: list[Any]) -> list[Any]:
        return bind(equation, [unpacked(value) for value in operands])

    return jax.checkpoint(dequantize_and_bind)(list(operands))


# ---------------------------------------------------------------------------------------------
# Views that move what is stored


def _moved(equation: jex.JaxprEqn, operands: Sequence[Any]) -> Any:
    """The view as a packed weight of the same kind, or None where there is none."""
    rule = _MOVES.get(equation.primitive.name)
    weight, *others = operands
    if rule is None or not is_packed(weight) or isinstance(weight, Deferred):
        return None
    return rule(weight, equation.params, *others)


def _slice(weight: Any, params: dict[str, Any]) -> Any:
    lead, start, limit = weight.leading, params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * weight.ndim
    wanted = tuple(zip(start, limit, strides, strict=True))[lead:]
    if wanted != tuple((0, size, 1) for size in weight.shape[lead:]):
        return None
    rest = lambda array, value: (value,) * (array.ndim - lead)
    return jax.tree.map(
        lambda array: lax.slice(
            array,
            (*start[:lead], *rest(array, 0)),
            (*limit[:lead], *array.shape[lead:]),
            (*strides[:lead], *rest(array, 1)),
        ),
        weight,
    )


def _dynamic_slice(weight: Any, params: dict[str, Any], *start: Any) -> Any:
    lead, sizes = weight.leading, params["slice_sizes"]
    if tuple(sizes[lead:]) != weight.shape[lead:]:
        return None
    zero = jnp.zeros((), start[0].dtype)
    return jax.tree.map(
        lambda array: lax.dynamic_slice(
            array,
            (*start[:lead], *(zero,) * (array.ndim - lead)),
            (*sizes[:lead], *array.shape[lead:]),
        ),
        weight,
    )


def _squeeze(weight: Any, params: dict[str, Any]) -> Any:
    dimensions = tuple(d % weight.ndim for d in params["dimensions"])
    if any(d >= weight.leading for d in dimensions):
        return None
    return jax.tree.map(lambda array: lax.squeeze(array, dimensions), weight)


def _reshape(weight: Any, params: dict[str, Any]) -> Any:
    lead, new = weight.leading, tuple(params["new_sizes"])
    kept = weight.ndim - lead
    if params.get("dimensions") is not None or new[-kept:] != weight.shape[lead:]:
        return None
    shape = lambda array: (*new[:-kept], *array.shape[lead:])
    return jax.tree.map(lambda array: lax.reshape(array, shape(array)), weight)


def _gather(weight: Any, params: dict[str, Any], index: Any) -> Any:
    """``W[index]`` along the first axis; what lies out of bounds becomes NaN through the scales."""
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    rows = tuple(range(index.ndim - 1, index.ndim - 1 + weight.ndim - 1))
    plain = (
        weight.leading > 0
        and (numbers.collapsed_slice_dims, numbers.start_index_map) == ((0,), (0,))
        and (tuple(numbers.offset_dims), tuple(sizes[1:])) == (rows, weight.shape[1:])
        and params["fill_value"] is None
    )
    if not plain:
        return None

    def pick(array: jax.Array) -> jax.Array:
        places = tuple(range(index.ndim - 1, index.ndim - 1 + array.ndim - 1))
        return lax.gather(
            array,
            index,
            lax.GatherDimensionNumbers(places, (0,), (0,)),
            (1, *array.shape[1:]),
            mode=params["mode"],
        )

    return jax.tree.map(pick, weight)


def _convert(weight: Any, params: dict[str, Any]) -> Any:
    """A cast to a type that holds no more: the dense weight is rounded once, to that type."""
    dtype = params["new_dtype"]
    narrows = jnp.promote_types(weight.dtype, dtype) == weight.dtype
    return weight.astype(dtype) if narrows else None


_MOVES: dict[str, Callable[..., Any]] = {
    "convert_element_type": _convert,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "reshape": _reshape,
    "slice": _slice,
    "squeeze": _squeeze,
}
