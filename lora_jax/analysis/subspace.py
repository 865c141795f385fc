"""How alike two subspaces are, and how alike two would be by chance.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 7.2,
eq. 4 and appendix G. That appendix prints (1/p)(1 − d²) for the similarity of two subspaces of p
dimensions; with its projection metric d² = p − Σσ² it is Σσ²/p = 1 − d²/p.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key


def similarity(
    first: Float[Array, "*layers dim p"], other: Float[Array, "*layers dim q"]
) -> Float[Array, "*layers p q"]:
    """Compares the top i directions of one with the top j of the other, for all i and j at once.

    φ(i, j) = ‖UᵢᵀVⱼ‖²_F / min(i, j): 1 where one subspace holds the other, 0 where they are
    orthogonal; the mean of squared cosines of the principal angles.

    Args:
      first: orthonormal columns, strongest first.
      other: as many layers and the same dimension; the numbers of columns may differ.

    Returns:
      φ, the entry [i - 1, j - 1] being that of the top i and the top j.

    Raises:
      ValueError: the dimensions or layers differ.

    >>> similarity(jnp.eye(4)[:, :2], jnp.eye(4)[:, 1:])
    Array([[0. , 0. , 0. ],
           [1. , 0.5, 0.5]], dtype=float32)
    """
    _check_same_space(first, other)
    with jax.default_matmul_precision("highest"):
        cosines = first.mT @ other
    shared = jnp.cumsum(jnp.cumsum(cosines**2, axis=-2), axis=-1)
    rows, columns = (np.arange(1, n + 1) for n in shared.shape[-2:])
    return shared / np.minimum.outer(rows, columns).astype(np.float32)


def chance_level(p: int, q: int, dim: int) -> Float[np.ndarray, "p q"]:
    """The expected φ of independent subspaces, of which one at least is uniformly random.

    E‖UᵢᵀVⱼ‖²_F = i·j/d, for the projection onto a uniformly random subspace of i dimensions is
    (i/d)·I on average; divided by min(i, j) that is max(i, j)/d. It is negligible at d = 12,288,
    and a sixth at d = 384 with j = 64: no φ means anything without it.

    Args:
      p: most directions of the first.
      q: most directions of the other.
      dim: of the space.

    Returns:
      The level at [i - 1, j - 1].

    Raises:
      ValueError: more directions than dimensions.

    >>> chance_level(1, 4, 8)
    array([[0.125, 0.25 , 0.375, 0.5  ]])
    """
    _check_counts(p, q, dim)
    return np.maximum.outer(np.arange(1, p + 1), np.arange(1, q + 1)) / dim


def chance_deviation(p: int, q: int, dim: int) -> Float[np.ndarray, "p q"]:
    """The standard deviation of φ of independent subspaces, one of them uniformly random.

    Var‖UᵢᵀVⱼ‖²_F = 2ij(d − i)(d − j) / (d²(d − 1)(d + 2)), from the second moments of uniformly
    random projections; for i = j = 1 that is the variance of Beta(1/2, (d − 1)/2).

    Args:
      p: most directions of the first.
      q: most directions of the other.
      dim: of the space, at least 2.

    Returns:
      The deviation at [i - 1, j - 1].

    Raises:
      ValueError: more directions than dimensions, or a space of one.

    >>> chance_deviation(1, 1, 4).round(4)
    array([[0.25]])
    """
    _check_counts(p, q, dim)
    if dim < 2:
        raise ValueError("a space of one dimension has one direction only: nothing is by chance")
    i, j = np.arange(1.0, p + 1)[:, None], np.arange(1.0, q + 1)
    variance = 2 * i * j * (dim - i) * (dim - j) / (dim**2 * (dim - 1) * (dim + 2))
    return np.sqrt(variance) / np.minimum(i, j)


def above_chance(
    phi: Float[Array | np.ndarray, "*layers p q"], dim: int
) -> Float[np.ndarray, "*layers p q"]:
    """The chance-corrected φ: (φ − c)/(1 − c), with c the chance level.

    0 at chance, 1 for subspaces of which one holds the other, negative below chance. nan where a
    subspace is the whole space: it holds any other, and φ is 1 whatever was learnt.

    Args:
      phi: from `similarity`.
      dim: of the space.

    >>> above_chance(np.array([[1.0, 0.5, 0.75, 1.0]]), 4)
    array([[ 1.,  0.,  0., nan]])
    """
    p, q = phi.shape[-2:]
    chance = chance_level(p, q, dim)
    room = np.where(chance < 1, 1 - chance, np.nan)
    return (np.asarray(phi, np.float64) - chance) / room


def principal_angles(
    first: Float[Array, "*layers dim p"], other: Float[Array, "*layers dim q"]
) -> Float[Array, "*layers least"]:
    """The principal angles between two subspaces, in radians, smallest first.

    Their cosines are the singular values of UᵀV (Björck and Golub 1973). In fp32 an angle below
    about 3e-4 cannot be told from 0.

    Args:
      first: orthonormal columns.
      other: as in `similarity`.

    Returns:
      As many as the smaller subspace has dimensions.

    Raises:
      ValueError: the dimensions or layers differ.
    """
    _check_same_space(first, other)
    with jax.default_matmul_precision("highest"):
        cosines = jnp.linalg.svd(first.mT @ other, compute_uv=False)
    return jnp.arccos(jnp.clip(cosines, 0.0, 1.0))


def random_directions(
    key: Key[Array, ""], layers: int, dim: int, count: int
) -> Float[Array, "layers dim count"]:
    """Orthonormal bases of uniformly random subspaces: the control for learnt ones.

    Args:
      key: a PRNG key.
      layers: how many subspaces.
      dim: of the space.
      count: of directions, at most `dim`.

    Raises:
      ValueError: more directions than dimensions.
    """
    _check_counts(count, count, dim)
    return jnp.linalg.qr(jax.random.normal(key, (layers, dim, count))).Q


def _check_same_space(first: jax.Array, other: jax.Array) -> None:
    if first.shape[:-1] != other.shape[:-1]:
        raise ValueError(
            f"subspaces of different spaces cannot be compared: layers and dimension are "
            f"{first.shape[:-1]} in one and {other.shape[:-1]} in the other"
        )


def _check_counts(p: int, q: int, dim: int) -> None:
    if not 1 <= min(p, q) <= max(p, q) <= dim:
        raise ValueError(f"{p} and {q} directions: between 1 and {dim} fit a space of {dim}")
