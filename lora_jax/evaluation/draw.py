"""The next token of rows that each have settings of their own, as `Sampling` chooses it for all."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32


class Drawing(NamedTuple):
    """How each row's tokens are chosen: arrays, so that other settings are no other program.

    Attributes:
        temperature: `[rows]`: 0 takes the likeliest token.
        top_k: `[rows]`: draw among so many of the likeliest; 0: among all.
        top_p: `[rows]`: draw among the fewest that together have this probability.
        seed: `[rows]`: of the row's randomness.
    """

    temperature: Float[Array, " rows"]
    top_k: Int[Array, " rows"]
    top_p: Float[Array, " rows"]
    seed: UInt32[Array, " rows"]


def draw(
    logits: Float[Array, "rows vocab"], drawing: Drawing, steps: Int[Array, " rows"]
) -> tuple[Int[Array, " rows"], Float[Array, " rows"]]:
    """Chooses a token for each row; the same as `Sampling` with `jax.random.key(seed)` does.

    Args:
        logits: scores of the next token.
        drawing: each row's settings.
        steps: number of tokens that each row has so far.

    Returns:
        Token ids, and their log probabilities by the model, before temperature and filters.
    """
    tokens = jax.vmap(_draw_row)(logits, drawing, steps).astype(jnp.int32)
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
    return tokens, chosen - jax.nn.logsumexp(logits, axis=1)


def _draw_row(
    logits: Float[Array, " vocab"], drawing: Drawing, step: Int[Array, ""]
) -> Int[Array, ""]:
    # The chain of `generate`: a key for each prompt, for each text of it, for each token.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(drawing.seed), 0), step)
    scaled = logits / jnp.where(drawing.temperature > 0, drawing.temperature, 1.0)
    drawn = jax.random.categorical(key, _keep_top_p(_keep_top_k(scaled, drawing), drawing))
    return jnp.where(drawing.temperature > 0, drawn, logits.argmax())


def _keep_top_k(logits: Float[Array, " vocab"], drawing: Drawing) -> Float[Array, " vocab"]:
    size = logits.shape[0]
    count = jnp.where(drawing.top_k > 0, jnp.minimum(drawing.top_k, size), size)
    lowest = jnp.sort(logits)[size - count]
    return jnp.where(logits < lowest, -jnp.inf, logits)


def _keep_top_p(logits: Float[Array, " vocab"], drawing: Drawing) -> Float[Array, " vocab"]:
    order = jnp.argsort(logits)
    ascending = logits[order]
    below = jnp.cumsum(jax.nn.softmax(ascending))
    dropped = (below <= 1 - drawing.top_p).at[-1].set(False)  # one is always left
    kept = logits.at[order].set(jnp.where(dropped, -jnp.inf, ascending))
    return jnp.where(drawing.top_p < 1, kept, logits)
