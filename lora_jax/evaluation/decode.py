"""The loop that appends tokens to texts, one to each at a time."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from lora_jax.evaluation.invariant import hoist
from lora_jax.evaluation.passes import is_stop, prompt_text, read_prompt, read_token
from lora_jax.evaluation.sampling import Sampling


class Decoding(NamedTuple):
    """Texts that are being generated.

    Attributes:
        cache: what the model has read.
        text: `[rows, columns]`: prompts, then new tokens from column `columns - new`; -1 elsewhere.
        logprobs: `[rows, new]`: log probability of each new token by the model; 0 elsewhere.
        lengths: number of new tokens of each row.
        finished: which rows have ended.
        keys: a key for each row; None if nothing is random.
        step: number of new tokens of the longest row.
    """

    cache: Any
    text: Int[Array, "rows columns"]
    logprobs: Float[Array, "rows new"]
    lengths: Int[Array, " rows"]
    finished: Bool[Array, " rows"]
    keys: Key[Array, " rows"] | None
    step: Int[Array, ""]

    @property
    def new_tokens(self) -> Int[Array, "rows new"]:
        """The new tokens; -1 where there is none."""
        return self.text[:, self.text.shape[1] - self.logprobs.shape[1] :]


def begin_decoding(
    apply: Callable[..., Any],
    config: Any,
    sampling: Sampling,
    new: int,
    sequences: int,
    params: Any,
    ids: Int[Array, "batch length"],
    mask: Int[Array, "batch length"],
    cache: Any,
    keys: Key[Array, " batch"] | None,
    inputs: Mapping[str, Any],
) -> Decoding:
    """Reads the prompts and appends the first token to each.

    Args:
        apply: the model.
        config: its config.
        sampling: how tokens are chosen.
        new: largest number of new tokens.
        sequences: number of texts for each prompt.
        params: params of the model.
        ids: the prompts.
        mask: 1 for real tokens, 0 for padding.
        cache: what came before, with room for the prompt and new - 1 tokens; None: nothing did.
        keys: a key for each prompt; None if nothing is random.
        inputs: what else the model takes with a prompt.

    Returns:
        The texts, those of one prompt side by side.
    """
    text = prompt_text(config, ids, mask, new)
    slots = text.shape[1] - 1  # the last token is not read
    logits, cache = read_prompt(apply, config, params, ids, mask, cache, slots, inputs)
    if sequences > 1:
        rows = jnp.repeat(jnp.arange(len(ids)), sequences)
        logits, cache, text = logits[rows], cache.select(rows), text[rows]
    count = len(text)
    state = Decoding(
        cache=cache,
        text=text,
        logprobs=jnp.zeros((count, new), logits.dtype),
        lengths=jnp.zeros(count, jnp.int32),
        finished=jnp.zeros(count, bool),
        keys=None if keys is None else _row_keys(keys, sequences),
        step=jnp.int32(0),
    )
    return _append(state, logits, sampling)


def continue_decoding(
    apply: Callable[..., Any],
    config: Any,
    sampling: Sampling,
    params: Any,
    state: Decoding,
    until: Int[Array, ""],
) -> Decoding:
    """Appends tokens until all texts have ended or the longest has `until` new tokens.

    Args:
        apply: the model.
        config: its config.
        sampling: how tokens are chosen.
        params: params of the model.
        state: the texts, after their first token.
        until: number of new tokens.

    Returns:
        The longer texts.
    """

    def unfinished(state: Decoding) -> Bool[Array, ""]:
        return (state.step < until) & ~state.finished.all()

    def one_more(params: Any, state: Decoding) -> Decoding:
        start = state.text.shape[1] - state.logprobs.shape[1]
        last = lax.dynamic_index_in_dim(state.text, start + state.step - 1, 1, keepdims=False)
        logits, cache = read_token(apply, config, params, last, state.cache)
        return _append(state._replace(cache=cache), logits, sampling)

    return lax.while_loop(unfinished, hoist(one_more, params, state), state)


def _append(state: Decoding, logits: Float[Array, "rows vocab"], sampling: Sampling) -> Decoding:
    """Chooses the next token of each text that has not ended."""
    end = state.text.shape[1] - state.logprobs.shape[1] + state.step
    scores = sampling.enforce(logits, state.text, end, state.step)
    tokens = sampling.choose(scores, state.keys, state.step)
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
    logprobs = chosen - jax.nn.logsumexp(logits, axis=1)
    zero = jnp.int32(0)
    tokens, logprobs = (
        jnp.where(state.finished, blank, x)[:, None] for x, blank in ((tokens, -1), (logprobs, 0))
    )
    return state._replace(
        text=lax.dynamic_update_slice(state.text, tokens, (zero, end)),
        logprobs=lax.dynamic_update_slice(state.logprobs, logprobs, (zero, state.step)),
        lengths=state.lengths + ~state.finished,
        finished=state.finished | is_stop(tokens[:, 0], sampling.stop_ids),
        step=state.step + 1,
    )


def _row_keys(keys: Key[Array, " batch"], sequences: int) -> Key[Array, " rows"]:
    """A key for each text of each prompt."""
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    return fold(keys, jnp.arange(sequences)).reshape(-1)
