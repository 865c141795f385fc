"""The next token of rows that each have settings of their own, as `Sampling` chooses it for all."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
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
    draws = drawing.temperature > 0
    likeliest = logits.argmax(axis=1).astype(jnp.int32)
    drawn = lax.cond(draws.any(), _draw, lambda *_: likeliest, logits, drawing, steps)
    tokens = jnp.where(draws, drawn, likeliest)
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
    return tokens, chosen - jax.nn.logsumexp(logits, axis=1)


def _draw(
    logits: Float[Array, "rows vocab"], drawing: Drawing, steps: Int[Array, " rows"]
) -> Int[Array, " rows"]:
    draws = drawing.temperature > 0
    scaled = logits / jnp.where(draws, drawing.temperature, 1.0)[:, None]
    # On a CPU the order of a vocabulary takes long to find: only where a row asks for it.
    filters = draws & ((drawing.top_k > 0) | (drawing.top_p < 1))
    kept = lax.cond(filters.any(), jax.vmap(_keep), lambda scaled, _: scaled, scaled, drawing)
    return jax.vmap(_draw_row)(kept, drawing.seed, steps).astype(jnp.int32)


def _keep(logits: Float[Array, " vocab"], drawing: Drawing) -> Float[Array, " vocab"]:
    """Keeps the top_k, and of those the top_p; -inf for the others."""
    size = logits.shape[0]
    order = jnp.argsort(logits)
    ascending = logits[order]
    count = jnp.where(drawing.top_k > 0, jnp.minimum(drawing.top_k, size), size)
    ascending = jnp.where(ascending < ascending[size - count], -jnp.inf, ascending)
    below = jnp.cumsum(jax.nn.softmax(ascending))
    dropped = (drawing.top_p < 1) & (below <= 1 - drawing.top_p)
    dropped = dropped.at[-1].set(False)  # one is always left
    return logits.at[order].set(jnp.where(dropped, -jnp.inf, ascending))


def _draw_row(
    logits: Float[Array, " vocab"], seed: UInt32[Array, ""], step: Int[Array, ""]
) -> Int[Array, ""]:
    # The chain of `generate`: a key for each prompt, for each text of it, for each token.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), step)
    return jax.random.categorical(key, logits)
