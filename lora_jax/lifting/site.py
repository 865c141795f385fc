"""A site: one adapted weight, its method and the arrays it learns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from lora_jax.lifting.algebra import Delta
from lora_jax.lifting.roles import Weight


@runtime_checkable
class Method(Protocol):
    """How ΔW is described: arrays to learn, and the delta they make.

    A method may define more:

    * `frozen`, a tuple of names of its arrays that never train (default: none);
    * `elementwise`, whether it fits arrays that have no input and output side, such as biases and
      the scales of norms (default: False);
    * an array named `keep` among its arrays, the share of inputs that dropout keeps, instead of
      what `dropout` says (many adapters of different rates in one program);
    * `bias_delta(arrays, bias)`, what the same arrays do to the bias of the same module (default:
      nothing).
    """

    @property
    def dropout(self) -> float:
        """The rate at which inputs of ΔW are dropped in training."""
        ...

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """New arrays for one weight."""
        ...

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """What the arrays do to the weight."""
        ...


@dataclasses.dataclass(frozen=True)
class Site:
    """An adapted weight: its roles, its method, and how it is consumed.

    Attributes:
      weight: path, shape and roles.
      method: what adapts it.
      arrays: shape and dtype of each of the method's arrays.
      fallbacks: ``(primitive, why)`` wherever the dense W + ΔW is used.
      bias: the bias of the same module, where the method has its say in that too.
    """

    weight: Weight
    method: Method
    arrays: Mapping[str, jax.ShapeDtypeStruct]
    fallbacks: tuple[tuple[str, str], ...] = ()
    bias: Weight | None = None

    @property
    def path(self) -> str:
        return self.weight.path

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def dtype(self) -> Any:
        return self.weight.dtype

    @property
    def batch(self) -> tuple[int, ...]:
        return self.weight.batch

    @property
    def ins(self) -> tuple[int, ...]:
        return self.weight.ins

    @property
    def outs(self) -> tuple[int, ...]:
        return self.weight.outs

    @property
    def uses(self) -> tuple[str, ...]:
        return self.weight.uses

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the arrays that do not train."""
        return frozen_arrays(self.method)

    @property
    def num_parameters(self) -> int:
        """Entries of the arrays that train."""
        trained = [array for name, array in self.arrays.items() if name not in self.frozen]
        return sum(math.prod(array.shape) for array in trained)


def frozen_arrays(method: Method) -> tuple[str, ...]:
    """Names of a method's arrays that do not train; most methods have none."""
    return tuple(getattr(method, "frozen", ()))


def is_elementwise(method: Method) -> bool:
    """Whether a method fits arrays that have no input and output side."""
    return bool(getattr(method, "elementwise", False))


def make_site(weight: Weight, method: Method, bias: Weight | None = None) -> Site:
    """The site of a weight; the method says what arrays it needs, on shapes alone."""
    abstract = jax.ShapeDtypeStruct(weight.shape, weight.dtype)

    def arrays(key: jax.Array, value: Any) -> dict[str, jax.Array]:
        return method.init(key, dataclasses.replace(weight, value=value))

    shapes = jax.eval_shape(arrays, jax.random.key(0), abstract)
    site = Site(weight, method, shapes, bias=bias)
    if unknown := sorted(set(site.frozen) - set(site.arrays)):
        raise ValueError(
            f"{type(method).__name__} freezes {unknown}, but its arrays are {sorted(site.arrays)}"
        )
    return site


def carried_axes(site: Site) -> dict[str, tuple[int | None, ...]]:
    """Which axis of the weight each axis of a site's arrays is; None for one that is the method's.

    Found by asking the method again for a weight that is twice as large along one axis: what grows
    with it, from its very size, is that axis. LoRA's ``a`` is ``(*batch, *in, None)``. An axis that
    holds a part of the weight's, as in GraLoRA's blocks, is not that axis.
    """
    found: dict[str, list[int | None]] = {
        name: [None] * len(array.shape) for name, array in site.arrays.items()
    }
    for axis in (*site.ins, *site.outs):
        sizes = list(site.shape)
        sizes[axis] *= 2
        grown = make_site(dataclasses.replace(site.weight, shape=tuple(sizes)), site.method)
        for name, array in site.arrays.items():
            pairs = zip(array.shape, grown.arrays[name].shape, strict=True)
            for i, (before, after) in enumerate(pairs):
                if (before, after) == (site.shape[axis], sizes[axis]):
                    found[name][i] = axis
    # The layers of a stack cannot be doubled where a method has a rank for each; they come first.
    for name, array in site.arrays.items():
        count = len(site.batch)
        leads = array.shape[:count] == site.weight.sizes(site.batch)
        if leads and not any(axis is not None for axis in found[name][:count]):
            found[name][:count] = site.batch
    return {name: tuple(axes) for name, axes in found.items()}


def bias_of(weight: Weight, method: Method, weights: Mapping[str, Weight]) -> Weight | None:
    """The bias beside a weight, one entry for each of its outputs, if the method adapts it."""
    if not hasattr(method, "bias_delta"):
        return None
    module = weight.path.rpartition("/")[0]
    for name in ("bias", "b"):
        bias = weights.get(f"{module}/{name}" if module else name)
        if bias is not None and bias.shape == weight.sizes((*weight.batch, *weight.outs)):
            return bias
    return None


def check_arrays(site: Site, arrays: Mapping[str, Any]) -> None:
    """Raises `ValueError` where a site's factors have other names, shapes or types than its own."""
    name = f"factors[{site.path!r}]"
    if set(arrays) != set(site.arrays):
        raise ValueError(
            f"{name} holds {sorted(arrays)}, "
            f"but {type(site.method).__name__} needs {sorted(site.arrays)}"
        )
    for key, expected in site.arrays.items():
        array = arrays[key]
        if tuple(array.shape) != expected.shape:
            raise ValueError(
                f"{name}[{key!r}] has shape {tuple(array.shape)}, but {expected.shape} fits "
                f"the weight {site.shape}: they were made for another base, rank or targets"
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name}[{key!r}] has dtype {array.dtype}, which is not a float type")


def check_gathered(sites: Sequence[Site], gathered: Mapping[str, Any]) -> None:
    """Raises `ValueError` where a method starts from data that was not gathered."""
    for site in sites:
        gather = getattr(site.method, "starts_from", None)
        if gather is not None and site.path not in gathered:
            raise ValueError(
                f"{type(site.method).__name__} starts from data, and init was given none for "
                f"{site.path!r}: pass init(key, params, gathered), gathered by {gather}"
            )


def check_finite(path: str, weight: Any) -> None:
    """Raises `ValueError` where a new weight holds NaN or Inf; under `jit` nothing is known."""
    try:
        finite = bool(jnp.isfinite(weight).all())
    except jax.errors.ConcretizationTypeError:
        return
    if not finite:
        raise ValueError(
            f"the new weight {path!r} would hold NaN or Inf in {weight.dtype}: its factors or its "
            "base do, or W + ΔW is too large for that type"
        )
