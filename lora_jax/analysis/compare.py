"""Adapters over one base, side by side: how alike their subspaces are at a weight of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from lora_jax.analysis.change import Change, Factors, decompose, directions, matrix_sites
from lora_jax.analysis.subspace import similarity
from lora_jax.lifting import Lifted, Site


class Adapter(NamedTuple):
    """An adapter with its ΔW decomposed.

    Attributes:
      name: what to call it.
      lifted: the function with its sites.
      factors: what was learnt.
      changes: ΔW by path, from `decompose`.
    """

    name: str
    lifted: Lifted
    factors: Factors
    changes: Mapping[str, Change]

    @property
    def sites(self) -> dict[str, Site]:
        """The sites that are matrices, by path."""
        return {site.path: site for site in matrix_sites(self.lifted)}


def describe_adapter(name: str, lifted: Lifted, params: Any, factors: Factors) -> Adapter:
    """Decomposes an adapter once, for any number of comparisons.

    Args:
      name: what to call it.
      lifted: the function with its sites, of any methods.
      params: the frozen params.
      factors: of the adapter.

    Raises:
      ValueError: the factors do not fit, or no site is a matrix.
    """
    return Adapter(name, lifted, factors, _decompose(lifted, params, factors))


def shared_paths(adapters: Sequence[Adapter]) -> list[str]:
    """The weights that all adapters adapt, in the order of the first.

    Args:
      adapters: at least one.

    Raises:
      ValueError: there is none, or a weight has another shape in one of them.
    """
    first, *others = adapters
    paths = [path for path in first.sites if all(path in other.sites for other in others)]
    if not paths:
        listed = "; ".join(f"{one.name}: {', '.join(one.sites)}" for one in adapters)
        raise ValueError(f"no weight is adapted by all, so there is nothing to compare: {listed}")
    for path in paths:
        for other in others:
            if other.sites[path].weight != first.sites[path].weight:
                raise ValueError(
                    f"{path!r} is {first.sites[path].shape} in {first.name} and "
                    f"{other.sites[path].shape} in {other.name}: they are for different bases"
                )
    return paths


def adapter_directions(adapter: Adapter, path: str, side: str) -> Float[Array, "layers dim rank"]:
    """The directions of an adapter at a weight; see `directions`."""
    return directions(adapter.sites[path], adapter.changes[path], adapter.factors, side)


def compare(first: Adapter, other: Adapter, side: str) -> dict[str, Float[Array, "layers p q"]]:
    """φ of two adapters at every weight that both adapt.

    Args:
      first: one adapter.
      other: another, over the same base.
      side: what is compared: "a", "b", "in" or "out", as of `directions`.

    Returns:
      φ by path; see `similarity`.

    Raises:
      ValueError: nothing in common, or a method without the factors of that side.
    """
    return {
        path: similarity(
            adapter_directions(first, path, side), adapter_directions(other, path, side)
        )
        for path in shared_paths([first, other])
    }


# As one program, and the same for all adapters of a lift: operation by operation, and adapter by
# adapter, nearly all time would be compilation.
_decompose = jax.jit(decompose, static_argnums=0)
