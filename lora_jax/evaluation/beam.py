"""Beam search: the likeliest texts, looked for among the best continuations of a few."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lora_jax.evaluation.invariant import hoist
from lora_jax.evaluation.passes import is_stop, prompt_text, read_prompt, read_token
from lora_jax.evaluation.rules import Rules, require

# Added to the score of what must not be chosen. Finite, so that among such the order remains.
_OUT = -1.0e9


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeamSearch(Rules):
    """Keeps the best unfinished texts of each prompt, and the best finished ones.

    A text's score is the sum of its tokens' log probabilities over length ** length_penalty.

    Args:
        beams: number of each.
        length_penalty: above 0 favours long texts, below 0 short ones.
        early_stopping: True ends a prompt when it has as many finished texts as beams; False ends
            it when the best unfinished text, at its present length, scores no better than the
            worst finished one; "never" when it could not even at the length that favours it most.

    Raises:
        ValueError: a setting is out of its range.

    Source: Graves, 2012; the length penalty and the ends are those of Hugging Face transformers.
    """

    beams: int
    length_penalty: float = 1.0
    early_stopping: bool | str = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beams >= 1, "beams", self.beams, "at least 1")
        known = self.early_stopping in (True, False, "never")
        require(known, "early_stopping", self.early_stopping, 'True, False or "never"')


class Hypotheses(NamedTuple):
    """Some texts of each prompt, the best first.

    Attributes:
        text: `[batch, texts, columns]`, as in `Decoding`.
        logprobs: `[batch, texts, new]`, as in `Decoding`.
        scores: `[batch, texts]`: sum of log probabilities; of finished texts over their length
            to the power of the penalty.
        lengths: `[batch, texts]`: number of new tokens.
        finished: `[batch, texts]`: whether it is a finished text, and no placeholder.
    """

    text: Int[Array, "batch texts columns"]
    logprobs: Float[Array, "batch texts new"]
    scores: Float[Array, "batch texts"]
    lengths: Int[Array, "batch texts"]
    finished: Bool[Array, "batch texts"]

    def pick(self, which: Int[Array, "batch picked"]) -> "Hypotheses":
        """These texts of each prompt."""
        at = jnp.arange(len(which))[:, None], which
        return Hypotheses(*(x[at] for x in self))


class Search(NamedTuple):
    """A search under way.

    Attributes:
        cache: what the model has read, for each running text.
        parents: `[batch, beams]`: which row of the cache a running text continues.
        running: the best unfinished texts.
        done: the best finished texts.
        improvable: `[batch]`: whether a running text may still beat a finished one.
        step: number of new tokens of the running texts.
        over: whether the search has ended.
    """

    cache: Any
    parents: Int[Array, "batch beams"]
    running: Hypotheses
    done: Hypotheses
    improvable: Bool[Array, " batch"]
    step: Int[Array, ""]
    over: Bool[Array, ""]


def search_beams(
    apply: Callable[..., Any],
    config: Any,
    search: BeamSearch,
    new: int,
    params: Any,
    ids: Int[Array, "batch length"],
    mask: Int[Array, "batch length"],
    cache: Any,
    inputs: Mapping[str, Any],
) -> Hypotheses:
    """Searches for the likeliest continuations of prompts.

    Args:
        apply: the model.
        config: its config.
        search: settings, stop tokens included.
        new: largest number of new tokens.
        params: params of the model.
        ids: the prompts.
        mask: 1 for real tokens, 0 for padding.
        cache: what came before, with room for the prompt and new - 1 tokens; None: nothing did.
        inputs: what else the model takes with a prompt.

    Returns:
        As many finished texts of each prompt as there are beams, the best first.
    """
    text = prompt_text(config, ids, mask, new)
    slots = text.shape[1] - 1  # the last token is not read
    logits, cache = read_prompt(apply, config, params, ids, mask, cache, slots, inputs)
    rows = jnp.repeat(jnp.arange(len(ids)), search.beams)
    state = _extend(search, _empty(search, cache.select(rows), text, new), logits[rows])

    def one_more(params: Any, state: Search) -> Search:
        batch, beams = state.parents.shape
        rows = (jnp.arange(batch)[:, None] * beams + state.parents).reshape(-1)
        text = state.running.text
        last = lax.dynamic_index_in_dim(text, _end(state) - 1, axis=2, keepdims=False)
        logits, cache = read_token(
            apply, config, params, last.reshape(-1), state.cache.select(rows)
        )
        return _extend(search, state._replace(cache=cache), logits)

    return lax.while_loop(lambda state: ~state.over, hoist(one_more, params, state), state).done


def _empty(search: BeamSearch, cache: Any, text: Int[Array, "batch columns"], new: int) -> Search:
    """The search before the first token."""
    batch, beams = len(text), search.beams
    texts = Hypotheses(
        text=jnp.broadcast_to(text[:, None], (batch, beams, text.shape[1])),
        logprobs=jnp.zeros((batch, beams, new)),
        scores=jnp.full((batch, beams), _OUT),
        lengths=jnp.zeros((batch, beams), jnp.int32),
        finished=jnp.zeros((batch, beams), bool),
    )
    return Search(
        cache=cache,
        parents=jnp.broadcast_to(jnp.arange(beams), (batch, beams)),
        # All running texts are the same now: only the first may be continued.
        running=texts._replace(scores=texts.scores.at[:, 0].set(0)),
        done=texts,
        improvable=jnp.ones(batch, bool),
        step=jnp.int32(0),
        over=jnp.zeros((), bool),
    )


def _end(state: Search) -> Int[Array, ""]:
    """The column that the next token will take."""
    return state.running.text.shape[2] - state.running.logprobs.shape[2] + state.step


def _extend(search: BeamSearch, state: Search, logits: Float[Array, "rows vocab"]) -> Search:
    """Appends one token to the running texts, and moves those that end to the finished ones."""
    beams = state.parents.shape[1]
    candidates, parents = _candidates(search, state, logits)
    new = state.running.logprobs.shape[2]
    step = state.step + 1
    last = lax.dynamic_index_in_dim(candidates.text, _end(state), axis=2, keepdims=False)
    ends = is_stop(last, search.stop_ids) | (step == new)

    going = candidates.scores + jnp.where(ends, _OUT, 0)
    best = lax.top_k(going, beams)[1]
    running = candidates._replace(scores=going).pick(best)
    # Candidates beyond the first `beams` only stand by to go on, as in the original.
    ended = candidates._replace(finished=ends & (jnp.arange(ends.shape[1]) < beams))
    done = _keep_best(search, state, ended, new)

    at_best = new if search.early_stopping == "never" and search.length_penalty > 0 else step
    hope = running.scores[:, 0] / _lengthen(search, new)[at_best]
    worst = jnp.where(done.finished, done.scores.min(axis=1, keepdims=True), _OUT)
    improvable = state.improvable & (hope[:, None] > worst).any(axis=1)
    full = done.finished.all() if search.early_stopping is True else jnp.bool_(False)
    return Search(
        cache=state.cache,
        parents=jnp.take_along_axis(parents, best, axis=1),
        running=running,
        done=done,
        improvable=improvable,
        step=step,
        over=~improvable.any() | full | ends.all(),
    )


def _candidates(
    search: BeamSearch, state: Search, logits: Float[Array, "rows vocab"]
) -> tuple[Hypotheses, Int[Array, "batch candidates"]]:
    """The best continuations of all running texts by one token, and which text each continues."""
    batch, beams = state.parents.shape
    vocab = logits.shape[1]
    end = _end(state)
    raw = jax.nn.log_softmax(logits, axis=-1)
    flat = state.running.text.reshape(batch * beams, -1)
    scores = search.enforce(raw, flat, end, state.step).reshape(batch, beams, vocab)
    total = (scores + state.running.scores[..., None]).reshape(batch, beams * vocab)
    # Enough of them that `beams` go on even if every text is ended by every stop token.
    count = beams * max(2, 1 + len(search.stop_ids or ()))
    scores, which = lax.top_k(total, min(count, beams * vocab))
    parents, tokens = which // vocab, which % vocab
    logprobs = jnp.take_along_axis(raw.reshape(batch, beams * vocab), which, axis=1)
    chosen = state.running.pick(parents)
    candidates = chosen._replace(
        text=chosen.text.at[:, :, end].set(tokens),
        logprobs=chosen.logprobs.at[:, :, state.step].set(logprobs),
        scores=scores,
        lengths=chosen.lengths + 1,
    )
    return candidates, parents


def _keep_best(search: BeamSearch, state: Search, ended: Hypotheses, new: int) -> Hypotheses:
    """The best finished texts, old and new."""
    scores = ended.scores / _lengthen(search, new)[state.step + 1]
    if search.early_stopping is True:
        scores += jnp.where(state.done.finished.all(axis=1, keepdims=True), _OUT, 0)
    scores += jnp.where(state.improvable[:, None], 0, _OUT)
    scores += jnp.where(ended.finished, 0, _OUT)
    both = zip(state.done, ended._replace(scores=scores), strict=True)
    merged = Hypotheses(*(jnp.concatenate(pair, axis=1) for pair in both))
    return merged.pick(lax.top_k(merged.scores, search.beams)[1])


def _lengthen(search: BeamSearch, new: int) -> Float[Array, " lengths"]:
    """What the scores of texts of 0, 1, … new tokens are divided by."""
    lengths = np.maximum(np.arange(new + 1), 1).astype(np.float64)
    return jnp.asarray(lengths**search.length_penalty, jnp.float32)
