"""The rows of a batch that never stops, and the two programs that change them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lora_jax.adapters import AdapterPool
from lora_jax.evaluation.draw import Drawing, draw
from lora_jax.evaluation.passes import read_prompt, read_token


class Batch(NamedTuple):
    """The rows of the batch on the device.

    Attributes:
        caches: `RowCaches`: what each row has read.
        factors: of each row's adapter. They are the row's own: an adapter may leave the pool while
            its texts are being written.
        last: `[rows]`: the newest token, which has not been read.
        steps: `[rows]`: number of new tokens.
        drawing: how tokens are chosen.
    """

    caches: Any
    factors: Any
    last: Int[Array, " rows"]
    steps: Int[Array, " rows"]
    drawing: Drawing


def admit(
    apply: Callable[..., Any],
    config: Any,
    room: int,
    params: Any,
    batch: Batch,
    factors: Any,
    row: Int[Array, ""],
    ids: Int[Array, "1 length"],
    mask: Int[Array, "1 length"],
    drawing: Drawing,
) -> tuple[Batch, Int[Array, ""], Float[Array, ""]]:
    """Reads a prompt into a row, and chooses its first token."""
    variables = {"params": params, "factors": factors}
    logits, caches = read_prompt(apply, config, variables, ids, mask, None, room, {})
    steps = jnp.zeros(1, jnp.int32)
    tokens, logprobs = draw(logits, drawing, steps)
    new = Batch(caches, factors, tokens, steps + 1, drawing)
    batch = jax.tree.map(lambda held, own: held.at[row].set(own[0]), batch, new)
    return batch, tokens[0], logprobs[0]


def advance(
    apply: Callable[..., Any], config: Any, params: Any, batch: Batch, busy: Bool[Array, " rows"]
) -> tuple[Batch, Int[Array, " rows"], Float[Array, " rows"]]:
    """Writes one token of every row; those of rows that are not busy mean nothing."""
    variables = {"params": params, "factors": batch.factors}
    logits, caches = read_token(apply, config, variables, batch.last, batch.caches)
    # Nothing is drawn for a row that its text has left, though its settings are still there.
    temperature = jnp.where(busy, batch.drawing.temperature, 0)
    drawing = batch.drawing._replace(temperature=temperature)
    tokens, logprobs = draw(logits, drawing, batch.steps)
    batch = batch._replace(caches=caches, last=tokens, steps=batch.steps + 1)
    return batch, tokens, logprobs


def empty_batch(pool: AdapterPool, config: Any, room: int, rows: int) -> Batch:
    """A batch of the base's texts that nobody asked for."""
    factors = pool.factors([None])
    ids = jnp.zeros((1, 1), jnp.int32)
    caches = jax.eval_shape(
        lambda variables: read_prompt(
            pool.routed.apply, config, variables, ids, ids + 1, None, room, {}
        )[1],
        {"params": pool.params, "factors": factors},
    )
    blank = lambda leaf: jnp.zeros((rows, *leaf.shape[1:]), leaf.dtype)
    settings = Drawing(
        jnp.zeros(rows), jnp.zeros(rows, jnp.int32), jnp.ones(rows), jnp.zeros(rows, jnp.uint32)
    )
    return Batch(
        jax.tree.map(blank, caches),
        jax.tree.map(lambda leaf: jnp.repeat(leaf, rows, axis=0), factors),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros(rows, jnp.int32),
        settings,
    )
