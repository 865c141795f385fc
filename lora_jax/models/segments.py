"""Several documents packed into one row: where each begins, and what belongs together."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int


def place_in_segments(
    segments: Int[Array, "batch length"], mask: Int[Array, "batch length"] | None = None
) -> Int[Array, "batch length"]:
    """Numbers the real tokens of each segment from 0; padding is -1.

    Args:
        segments: 0 for padding, the same number for the tokens of a document, which lie side by
            side.
        mask: 0 for further padding; None: there is none.

    >>> place_in_segments(jnp.array([[1, 1, 1, 2, 2, 0]])).tolist()
    [[0, 1, 2, 0, 1, -1]]
    """
    real = segments != 0
    real = (real if mask is None else real & (mask != 0)).astype(jnp.int32)
    before = jnp.cumsum(real, axis=1) - real
    first = lax.cummax(jnp.where(_begins(segments), before, 0), axis=1)
    return jnp.where(real == 1, before - first, -1)


def up_to_here(segments: Int[Array, "batch length"]) -> Bool[Array, "batch 1 length length"]:
    """Where a key is of the segment of the query, and does not come after it.

    A number that comes again is another segment.

    >>> up_to_here(jnp.array([[1, 1, 2]]))[0, 0].astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    place = jnp.arange(segments.shape[1])
    first = lax.cummax(jnp.where(_begins(segments), place, 0), axis=1)
    # Of each key, its place alone: in a fused loop over keys XLA:CPU would count anew at each.
    return ((first[:, :, None] <= place) & (place <= place[:, None]))[:, None]


def _begins(segments: Int[Array, "batch length"]) -> Bool[Array, "batch length"]:
    """Where a token is of another segment than the one before it."""
    return jnp.diff(segments, axis=1, prepend=segments[:, :1] - 1) != 0
