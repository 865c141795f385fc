"""ΔW of each adapted weight, decomposed: its singular values and directions.

Where ΔW is a product of thin factors (LoRA and its relatives) it is decomposed through QR of the
factors and never formed; elsewhere one site's W' − W is formed at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lora_jax.adapters.low_rank import (
    as_matrices,
    decomposed,
    decomposed_matrix,
    dense_change,
    factored,
    site_delta,
    weights_by_path,
)
from lora_jax.lifting import Lifted, Site
from lora_jax.lifting.packed import unpacked
from lora_jax.lifting.site import check_arrays

Factors = Mapping[str, Mapping[str, Any]]
SIDES = ("a", "b", "in", "out")


class Change(NamedTuple):
    """The SVD of ΔW at one site, one for each stacked layer (1 where nothing is stacked).

    Attributes:
      left: directions on the side of the inputs.
      values: singular values, falling.
      right: directions on the side of the outputs.

    A direction that ΔW does not have, for its singular value is 0 but for rounding, is zeros.
    """

    left: Float[Array, "layers inputs rank"]
    values: Float[Array, "layers rank"]
    right: Float[Array, "layers outputs rank"]


def decompose(lifted: Lifted, params: Any, factors: Factors) -> dict[str, Change]:
    """Decomposes ΔW at every site that is a matrix; biases and scales of norms are left out.

    Args:
      lifted: over sites of any methods.
      params: the frozen params, which some methods need (DoRA, IA³, whole weights).
      factors: of the adapter.

    Returns:
      The decomposition by path of the weight, in fp32.

    Raises:
      ValueError: the factors do not fit the sites, or no site is a matrix.
    """
    leaves = weights_by_path(params)
    found = {}
    for site in matrix_sites(lifted):
        arrays, base = _arrays_of(site, factors), leaves.get(site.path)
        delta = site_delta(site, arrays, base)
        pair = factored(delta, site.weight)
        if pair is not None:
            u, s, vt = decomposed(*pair)
        else:
            u, s, vt = decomposed_matrix(dense_change(delta, base, site.weight))
        kept = _present(s, site.weight.fan_in + site.weight.fan_out)
        found[site.path] = Change(u * kept[:, None, :], s, vt.mT * kept[:, None, :])
    return found


def matrix_sites(lifted: Lifted) -> list[Site]:
    """The sites that have an input and an output side.

    Raises:
      ValueError: there is none.
    """
    sites = [site for site in lifted.sites if site.ins and site.outs]
    if not sites:
        raise ValueError(f"no adapted weight is a matrix: {[s.path for s in lifted.sites]}")
    return sites


def directions(
    site: Site, change: Change, factors: Factors, side: str
) -> Float[Array, "layers dim rank"]:
    """The orthonormal directions of an adapter at a site, strongest first.

    Args:
      site: one of `matrix_sites`.
      change: its ΔW, from `decompose`.
      factors: of the adapter.
      side: ``"a"``, of the factor A on the side of the inputs, as Hu et al. compare them (arXiv
        2106.09685, eq. 4: they write A with its inputs as columns, so these are its right-singular
        vectors); ``"b"``, of B on the side of the outputs; ``"in"`` and ``"out"``, of ΔW itself.

    Returns:
      Directions as columns; zeros where the adapter has fewer.

    Raises:
      ValueError: an unknown side, or a site without factors a and b.
    """
    if side not in SIDES:
        raise ValueError(f"unknown side {side!r}: it is one of {', '.join(SIDES)}")
    if side in ("in", "out"):
        return change.left if side == "in" else change.right
    arrays, weight = _arrays_of(site, factors), site.weight
    if not {"a", "b"} <= set(arrays):
        raise ValueError(
            f"{site.path!r} is adapted by {type(site.method).__name__}, which has no factors a and "
            "b to compare: take side 'in' or 'out', of ΔW itself"
        )
    layers = math.prod(weight.sizes(weight.batch))
    if side == "a":
        thin = arrays["a"].reshape(layers, weight.fan_in, -1)
    else:
        thin = arrays["b"].reshape(layers, -1, weight.fan_out).mT
    u, s, _ = jnp.linalg.svd(thin.astype(jnp.float32), full_matrices=False)
    directions: jax.Array = u * _present(s, sum(thin.shape[1:]))[:, None, :]
    return directions


def base_matrices(site: Site, params: Any) -> Float[Array, "layers inputs outputs"]:
    """A site's frozen weight as fp32 matrices; a quantised one is dequantised."""
    leaf = weights_by_path(params)[site.path]
    return as_matrices(unpacked(leaf, jnp.float32), site.weight)


def changed_matrices(
    site: Site, params: Any, factors: Factors
) -> Float[Array, "layers inputs outputs"]:
    """ΔW of a site, formed, in fp32."""
    base = weights_by_path(params)[site.path]
    delta = site_delta(site, _arrays_of(site, factors), base)
    return dense_change(delta, base, site.weight)


def _arrays_of(site: Site, factors: Factors) -> Mapping[str, Any]:
    if site.path not in factors:
        raise ValueError(f"factors have no entry for {site.path!r}, which is adapted")
    check_arrays(site, factors[site.path])
    return factors[site.path]


def _present(values: Float[Array, "layers rank"], size: int) -> Float[Array, "layers rank"]:
    """1 for singular values that are more than rounding, else 0."""
    least = values[:, :1] * size * jnp.finfo(jnp.float32).eps
    return (values > least).astype(jnp.float32)
