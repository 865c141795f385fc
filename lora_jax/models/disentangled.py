"""Relative positions as DeBERTa scores them: buckets of distances, and scores by distance."""

import numpy as np
from jaxtyping import Array, Float, Int


def bucket(
    distances: Int[np.ndarray, " count"], buckets: int, farthest: int
) -> Int[np.ndarray, " count"]:
    """Gives near distances a bucket of their own and far ones wider and wider buckets.

    Args:
        distances: place of the query less place of the key, of either sign.
        buckets: half of them, on either side, hold one distance each; 0 gives every distance its
            own.
        farthest: the distance at which the buckets end.

    Returns:
        The number of each distance's bucket, with the sign of the distance.

    Source: He et al., 2021 (DeBERTa v2), released code. The logarithm is taken in float32 like
    there, as its ceiling may depend on that.

    >>> bucket(np.array([-11, -2, 0, 1, 5, 6, 11]), 6, 12)
    array([-5, -2,  0,  1,  4,  5,  5], dtype=int32)
    """
    if not buckets:
        return distances.astype(np.int32)
    middle = buckets // 2
    far = np.maximum(np.abs(distances), middle).astype(np.float32) / np.float32(middle)
    steps = np.log(far) / np.log(np.float32((farthest - 1) / middle)) * np.float32(middle - 1)
    wide = np.sign(distances) * (np.ceil(steps) + middle)
    return np.where(np.abs(distances) <= middle, distances, wide).astype(np.int32)


def skew(scores: Float[Array, "*batch length twice"]) -> Float[Array, "*batch length length"]:
    """Turns scores by distance into scores by place, by shifting row i by i.

    A reshape does it, since in the flat array the next row starts one place too early: there is no
    gather, and no scatter in the backward pass.

    Args:
        scores: row i, column c: the score of place i with place `i + c - (length - 1)`.

    Source: the memory-efficient relative attention of Huang et al., 2018, section 3.4.1.

    >>> import jax.numpy as jnp
    >>> skew(jnp.arange(8.0).reshape(2, 4))
    Array([[1., 2.],
           [4., 5.]], dtype=float32)
    """
    *batch, length, twice = scores.shape
    flat = scores.reshape(*batch, length * twice)
    kept = flat[..., length - 1 : length - 1 + length * (twice - 1)]
    return kept.reshape(*batch, length, twice - 1)[..., :length]
