"""ΔW of any method as two matrices, without forming ΔW where the method is a product of factors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lora_jax.lifting import Delta, Factor, Site, Weight, path_name
from lora_jax.lifting.algebra import Term, contract
from lora_jax.lifting.dense import apply_delta
from lora_jax.lifting.packed import is_packed, unpacked
from lora_jax.methods import LoRA

Pair = tuple[jax.Array, jax.Array]  # (layers, in, rank) and (layers, rank, out), fp32


def weights_by_path(params: Any) -> dict[str, Any]:
    """The leaves of params by path; a quantised weight is one leaf."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_packed)
    return {path_name(path): leaf for path, leaf in flat}


class Plain(NamedTuple):
    """A LoRA at one site: ``scale · A·B`` for each layer, zero beyond a layer's own rank."""

    a: jax.Array  # (layers, in, rank)
    b: jax.Array  # (layers, rank, out)
    scale: jax.Array  # (layers,)
    used: jax.Array  # (layers, rank): whether this is one of the layer's ranks


def plain_lora(site: Site, arrays: Mapping[str, Any]) -> Plain:
    """The matrices of a site that is plain LoRA, in fp32."""
    weight, method = site.weight, site.method
    assert isinstance(method, LoRA)
    batch = weight.sizes(weight.batch)
    layers, rank = math.prod(batch), method.rank
    a = arrays["a"].reshape(layers, weight.fan_in, rank).astype(jnp.float32)
    b = arrays["b"].reshape(layers, rank, weight.fan_out).astype(jnp.float32)
    scales = method.layer_scales(batch[0]) if batch else None
    if scales is None:
        scales = np.full((1, rank), method.scale)
    each = jnp.asarray(np.repeat(scales, layers // len(scales), axis=0), jnp.float32)
    used = each > 0
    return Plain(a * used[:, None, :], b * used[..., None], each.max(axis=1), used)


def site_delta(site: Site, arrays: Mapping[str, Any], base: Any = None) -> Delta:
    """What a site's arrays do to its weight; `base` where the method needs it."""
    return site.method.delta(arrays, dataclasses.replace(site.weight, value=base))


def factored(delta: Delta, weight: Weight) -> Pair | None:
    """Two matrices whose product is ΔW, one pair for each stacked layer; None if ΔW is no product.

    A gain multiplies W itself, and a factor with both input and output axes is a matrix already.
    """
    if delta.gain or not delta.terms or not weight.ins or not weight.outs:
        return None
    pairs = [_factored_term(term, weight) for term in delta.terms]
    found = [pair for pair in pairs if pair is not None]
    if len(found) < len(pairs):
        return None
    return (
        jnp.concatenate([left for left, _ in found], axis=-1),
        jnp.concatenate([right for _, right in found], axis=-2),
    )


def _factored_term(term: Term, weight: Weight) -> Pair | None:
    left = [factor for factor in term if factor.has(*weight.ins)]
    right = [factor for factor in term if not factor.has(*weight.ins)]
    if any(factor.has(*weight.outs) for factor in left) or not left:
        return None
    if not any(factor.has(*weight.outs) for factor in right):
        return None
    hidden = list(dict.fromkeys(label for f in left for label in f.hidden))
    hidden = [label for label in hidden if any(f.has(label) for f in right)]
    sizes: dict[Any, int] = dict(enumerate(weight.shape))
    for factor in term:
        sizes.update(zip(factor.axes, factor.array.shape, strict=True))
    layers = math.prod(weight.sizes(weight.batch))
    rank = math.prod(sizes[label] for label in hidden)
    a = _product(left, (*weight.batch, *weight.ins, *hidden), sizes)
    b = _product(right, (*weight.batch, *hidden, *weight.outs), sizes)
    return a.reshape(layers, weight.fan_in, rank), b.reshape(layers, rank, weight.fan_out)


def _product(factors: Sequence[Factor], out: Sequence[Any], sizes: Mapping[Any, int]) -> jax.Array:
    exact = lax.Precision.HIGHEST
    return contract(factors, out, sizes, dtype=jnp.float32, precision=exact)


def dense_change(delta: Delta, base: Any, weight: Weight) -> jax.Array:
    """``W' - W`` as fp32 matrices ``(layers, in, out)``."""
    wide = unpacked(base, jnp.float32)
    return as_matrices(apply_delta(wide, delta) - wide, weight)


def as_matrices(array: Any, weight: Weight) -> jax.Array:
    """An array of the weight's shape as matrices ``(layers, in, out)``."""
    order = (*weight.batch, *weight.ins, *weight.outs)
    layers = math.prod(weight.sizes(weight.batch))
    return lax.transpose(array, order).reshape(layers, weight.fan_in, weight.fan_out)


def as_lora_arrays(a: jax.Array, b: jax.Array, weight: Weight, dtype: Any) -> dict[str, jax.Array]:
    """Matrices ``(layers, in, rank)`` and ``(layers, rank, out)`` as LoRA's factors."""
    batch, rank = weight.sizes(weight.batch), a.shape[-1]
    return {
        "a": a.reshape(*batch, *weight.sizes(weight.ins), rank).astype(dtype),
        "b": b.reshape(*batch, rank, *weight.sizes(weight.outs)).astype(dtype),
    }


def decomposed(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The SVD of ``A·B`` from decompositions of the factors; the product is never formed.

    Returns:
      ``U (layers, in, k)``, ``s (layers, k)`` and ``Vᵀ (layers, k, out)`` with
      k = min(in, rank, out).
    """
    left, right = jnp.linalg.qr(a), jnp.linalg.qr(b.mT)
    with jax.default_matmul_precision("highest"):
        u, s, vt = jnp.linalg.svd(left.R @ right.R.mT, full_matrices=False)
        return left.Q @ u, s, vt @ right.Q.mT


def decomposed_matrix(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The SVD of matrices ``(layers, in, out)``."""
    u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
    return u, s, vt
