"""Weights as matrices (in, out), one for each stacked layer or expert, and their decompositions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lora_jax.lifting import Weight
from lora_jax.lifting.packed import is_packed
from lora_jax.methods.lora import LoRA


def matrix_of(array: Any, weight: Weight) -> jax.Array:
    """An array of the weight's shape as fp32 matrices ``(*batch, fan in, fan out)``."""
    axes = (*weight.batch, *weight.ins, *weight.outs)
    shape = (*weight.sizes(weight.batch), weight.fan_in, weight.fan_out)
    return lax.transpose(array, axes).reshape(shape).astype(jnp.float32)


def base_matrix(weight: Weight, asked: str) -> jax.Array:
    """The frozen weight as fp32 matrices.

    Args:
      weight: with its value.
      asked: the name of the initialiser that asks, for messages.

    Raises:
      ValueError: the weight is not at hand, or it is quantised.
    """
    if weight.value is None:
        raise ValueError(f"{asked} starts from the weight {weight.path!r}, which is not at hand")
    if is_packed(weight.value):
        raise ValueError(
            f"{asked} starts from the exact weight, and {weight.path!r} is quantised "
            f"({type(weight.value).__name__}): use LoftQ, or LoRA's own start"
        )
    return matrix_of(jnp.asarray(weight.value), weight)


def as_factors(a: jax.Array, b: jax.Array, weight: Weight, dtype: Any) -> dict[str, jax.Array]:
    """Matrices ``(*batch, fan in, rank)`` and ``(*batch, rank, fan out)`` as LoRA's factors."""
    batch, rank = weight.sizes(weight.batch), a.shape[-1]
    return {
        "a": a.reshape(*batch, *weight.sizes(weight.ins), rank).astype(dtype),
        "b": b.reshape(*batch, rank, *weight.sizes(weight.outs)).astype(dtype),
    }


def svd(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``U, s, Vᵀ`` of each matrix, the smaller side long."""
    u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
    return u, s, vt


def randomised_svd(
    key: jax.Array, matrix: jax.Array, rank: int, iterations: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The leading `rank` singular triples of each matrix, by subspace iteration.

    Halko, Martinsson and Tropp, arXiv 0909.4061, algorithms 4.4 and 5.1, as `torch.svd_lowrank`:
    without oversampling, on the transpose of a matrix that is wider than long.

    Args:
      key: a PRNG key.
      matrix: ``(*batch, m, n)``.
      rank: number of triples.
      iterations: of the subspace, n ≥ 0; more are nearer to the exact ones.

    Returns:
      ``U (*batch, m, rank)``, ``s (*batch, rank)``, ``Vᵀ (*batch, rank, n)``.
    """
    *batch, m, n = matrix.shape
    probe = jax.random.normal(key, (*batch, min(m, n), rank), matrix.dtype)
    return subspace_svd(matrix, probe, iterations)


def subspace_svd(
    matrix: jax.Array, probe: jax.Array, iterations: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`randomised_svd` from given Gaussian columns ``probe (*batch, min(m, n), rank)``."""
    wide = matrix.shape[-2] < matrix.shape[-1]
    long = matrix.mT if wide else matrix
    q = jnp.linalg.qr(long @ probe).Q
    for _ in range(iterations):
        q = jnp.linalg.qr(long.mT @ q).Q
        q = jnp.linalg.qr(long @ q).Q
    u, s, vt = svd(q.mT @ long)
    u = q @ u
    return (vt.mT, s, u.mT) if wide else (u, s, vt)


def balanced(u: jax.Array, s: jax.Array, vt: jax.Array, scale: Any) -> tuple[jax.Array, jax.Array]:
    """A and B of equal size whose product times `scale` is ``U diag(s) Vᵀ``.

    Args:
      u: ``(*batch, in, rank)``.
      s: ``(*batch, rank)``.
      vt: ``(*batch, rank, out)``.
      scale: a number, or an array like `s`, zero for components that are left out.
    """
    root = jnp.sqrt(jnp.where(scale > 0, s / jnp.where(scale > 0, scale, 1.0), 0.0))
    return u * root[..., None, :], root[..., :, None] * vt


def scale_of(method: LoRA, weight: Weight) -> Any:
    """The scale of a method: a number, or where layers differ an array ``(*batch, rank)``."""
    if not weight.batch:
        return method.scale
    layers, *experts = weight.sizes(weight.batch)
    scales = method.layer_scales(layers)
    if scales is None:
        return method.scale
    wide = scales.reshape(layers, *(1 for _ in experts), method.rank)
    return jnp.broadcast_to(jnp.asarray(wide, jnp.float32), (layers, *experts, method.rank))


def refuse_ranks(method: LoRA, why: str) -> None:
    """Raises `ValueError` for a start that depends on the rank as a whole."""
    if method.ranks is not None:
        raise ValueError(f"{type(method).__name__} takes one rank for all layers: {why}")


def check_rank(rank: int, weight: Weight, most: int, asked: str) -> None:
    """Raises `ValueError` where a decomposition has fewer parts than are asked for."""
    if rank > most:
        raise ValueError(
            f"{asked} needs a rank of at most {most} for {weight.path!r} "
            f"({weight.fan_in} x {weight.fan_out}), not {rank}"
        )
