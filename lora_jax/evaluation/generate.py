"""Text from a language model: prompts in, new tokens out, in one compiled program."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lora_jax.evaluation.beam import BeamSearch, search_beams
from lora_jax.evaluation.decode import Decoding, begin_decoding, continue_decoding
from lora_jax.evaluation.passes import is_stop, start_id
from lora_jax.evaluation.sampling import Sampling


class Generated(NamedTuple):
    """New tokens, without the prompts; several texts of one prompt lie side by side.

    Attributes:
        tokens: `[rows, new]`, the token that ended a text included, then padding.
        lengths: number of new tokens of each row, at least 1.
        logprobs: `[rows, new]`: log probability of each token by the model, before rules,
            temperature and filters; 0 for padding.
        scores: `[rows]`: of beam search the score that texts are ranked by; otherwise the sum of
            `logprobs`.
        finished: `[rows]`: whether a stop token ended the text, and not its largest length.
    """

    tokens: Int[Array, "rows new"]
    lengths: Int[Array, " rows"]
    logprobs: Float[Array, "rows new"]
    scores: Float[Array, " rows"]
    finished: Bool[Array, " rows"]


class Request(NamedTuple):
    """What is asked for, after it was checked.

    Attributes:
        settings: static arguments: the search with its stop tokens, the largest number of new
            tokens, and the number of texts for each prompt.
        ids: prompts `[batch, length]`.
        mask: 1 for real tokens, 0 for padding.
        keys: a key for each prompt; None if nothing is random.
    """

    settings: tuple[Sampling | BeamSearch, int, int]
    ids: Int[Array, "batch length"]
    mask: Int[Array, "batch length"]
    keys: PRNGKeyArray | None


def generate(
    apply: Callable[..., Any],
    params: Any,
    ids: Any,
    mask: Any = None,
    *,
    config: Any,
    max_new_tokens: int,
    search: Sampling | BeamSearch | None = None,
    sequences: int = 1,
    key: PRNGKeyArray | None = None,
    cache: Any = None,
    **inputs: Any,
) -> Generated:
    """Continues prompts, or with an encoder–decoder answers them.

    Reading the prompts and the loop over new tokens are one program. It is compiled once for each
    `apply`, config, settings and shape of `ids`, so pad prompts to few lengths, and make an `apply`
    of your own once, not anew for each call.

    Args:
        apply: a language model, as `models.build` makes it; or any function of that kind, such as
            `lambda v, *args, **named: lifted(v["params"], v["factors"], *args, **named)`.
        params: whatever `apply` takes first.
        ids: prompts `[batch, length]`, token ids below `config.vocab_size`.
        mask: 1 for real tokens, 0 for padding, which may be on either side; None: all are real.
        config: the model's config.
        max_new_tokens: largest number of new tokens, at least 1.
        search: `Sampling(…)` or `BeamSearch(…)`; None is greedy.
        sequences: number of texts for each prompt: random ones, or the best of a beam search.
        key: source of randomness, or one key for each prompt. A text depends on its prompt, its
            key, and with a single key on its place in the batch; not on other prompts.
        cache: what the model has read before these prompts, with room for them and
            `max_new_tokens - 1` more; None: nothing.
        **inputs: what else `apply` takes with a prompt, such as `pixels`.

    Returns:
        The new tokens.

    Raises:
        ValueError: a setting or the prompts do not fit the model or each other.

    >>> from lora_jax import models
    >>> config = models.GPT2Config(vocab_size=9, dim=8, heads=2, layers=1, ff_dim=8, eos_ids=())
    >>> params = models.init(config, jax.random.key(0))
    >>> apply = models.build(config).apply
    >>> generate(apply, params, [[1, 2]], config=config, max_new_tokens=3).tokens.shape
    (1, 3)
    """
    asked = check_request(
        ids,
        mask,
        config=config,
        max_new_tokens=max_new_tokens,
        search=search,
        sequences=sequences,
        key=key,
        cache=cache,
    )
    _, ids, mask, keys = asked
    return _generate(apply, config, asked.settings, params, ids, mask, cache, keys, inputs)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _generate(
    apply: Callable[..., Any],
    config: Any,
    settings: tuple[Sampling | BeamSearch, int, int],
    params: Any,
    ids: Array,
    mask: Array,
    cache: Any,
    keys: PRNGKeyArray | None,
    inputs: Mapping[str, Any],
) -> Generated:
    search, new, sequences = settings
    if isinstance(search, Sampling):
        state = begin_decoding(
            apply, config, search, new, sequences, params, ids, mask, cache, keys, inputs
        )
        until = jnp.int32(new)
        return collect(config, continue_decoding(apply, config, search, params, state, until))
    best = search_beams(apply, config, search, new, params, ids, mask, cache, inputs)
    text, logprobs, scores, lengths, _ = (x[:, :sequences].reshape(-1, *x.shape[2:]) for x in best)
    tokens = text[:, -new:]
    last = jnp.take_along_axis(tokens, lengths[:, None] - 1, axis=1)[:, 0]
    return Generated(
        _fill(config, tokens, lengths), lengths, logprobs, scores, is_stop(last, search.stop_ids)
    )


def collect(config: Any, state: Decoding) -> Generated:
    """What has been generated so far."""
    return Generated(
        tokens=_fill(config, state.new_tokens, state.lengths),
        lengths=state.lengths,
        logprobs=state.logprobs,
        scores=state.logprobs.sum(axis=1),
        finished=state.finished,
    )


def _fill(config: Any, tokens: Array, lengths: Array) -> Array:
    """Writes padding, or the first stop token if the model has no padding, behind the texts."""
    padding = config.pad_id
    if padding is None:
        padding = config.eos_ids[0] if config.eos_ids else 0
    real = jnp.arange(tokens.shape[1]) < lengths[:, None]
    return jnp.where(real, tokens, padding)


def check_request(
    ids: Any,
    mask: Any,
    *,
    config: Any,
    max_new_tokens: int,
    search: Sampling | BeamSearch | None,
    sequences: int,
    key: PRNGKeyArray | None,
    cache: Any,
) -> Request:
    """Checks what `generate` is asked for, and fills in what was left out.

    Raises:
        ValueError: something does not fit.
    """
    ids, mask = _check_prompts(ids, mask, config.vocab_size)
    search = Sampling() if search is None else search
    if search.stop_ids is None:
        search = dataclasses.replace(search, stop_ids=tuple(config.eos_ids))
    _check_stops(search, config.vocab_size)
    _check_room(ids.shape, max_new_tokens, config, cache)
    random = isinstance(search, Sampling) and not search.greedy
    if random and key is None:
        raise ValueError("a temperature above 0 needs key=jax.random.key(…)")
    texts = search.beams if isinstance(search, BeamSearch) else None
    if sequences < 1 or sequences > (texts or sequences):
        raise ValueError(f"sequences = {sequences}; at least 1 and at most the number of beams")
    if sequences > 1 and not random and texts is None:
        raise ValueError(
            f"sequences = {sequences}, but greedy decoding makes one text; set a temperature"
        )
    keys = _spread(key, len(ids)) if random and key is not None else None
    return Request((search, max_new_tokens, sequences), jnp.asarray(ids), jnp.asarray(mask), keys)


def _check_prompts(ids: Any, mask: Any, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.asarray(ids)
    if ids.ndim != 2 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"ids are {ids.dtype}{list(ids.shape)}; wanted integers [batch, length], with at "
            "least one token"
        )
    mask = np.ones_like(ids) if mask is None else np.asarray(mask)
    if mask.shape != ids.shape:
        raise ValueError(f"ids are {list(ids.shape)}, but the mask is {list(mask.shape)}")
    real = mask != 0
    if not real.any(axis=1).all():
        raise ValueError(f"prompt {int(np.argmin(real.any(axis=1)))} has no real token")
    wrong = real & ((ids < 0) | (ids >= vocab_size))
    if wrong.any():
        raise ValueError(
            f"the prompts have token {ids[wrong][0]}, but the model's vocabulary is {vocab_size}; "
            "is the tokenizer that of the model?"
        )
    return np.where(real, ids, 0).astype(np.int32), real.astype(np.int32)


def _check_stops(search: Sampling | BeamSearch, vocab_size: int) -> None:
    for stop in search.stop_ids or ():
        if not 0 <= stop < vocab_size:
            raise ValueError(f"stop_ids have {stop}, but the model's vocabulary is {vocab_size}")


def _check_room(shape: tuple[int, ...], new: int, config: Any, cache: Any) -> None:
    """Checks that the model has positions, and the cache slots, for all tokens but the last."""
    if new < 1:
        raise ValueError(f"max_new_tokens = {new}; it must be at least 1")
    limit = getattr(config, "max_length", None)
    prompt = shape[1] if start_id(config) is None else 1
    if limit is not None and prompt > limit:
        raise ValueError(
            f"the prompts are {prompt} tokens long, but the model's context is {limit}"
        )
    if limit is not None and prompt + new - 1 > limit:
        raise ValueError(
            f"prompts of {prompt} tokens leave room for {limit - prompt + 1} new ones in the "
            f"model's context of {limit}, but max_new_tokens = {new}"
        )
    if cache is not None:
        _check_cache(shape[0], prompt + new - 1, cache)


def _check_cache(batch: int, tokens: int, cache: Any) -> None:
    rows, slots = cache.order.shape
    if rows != batch:
        raise ValueError(f"{batch} prompts, but the cache has {rows} rows")
    free = slots - int(cache.used)
    if tokens > free:
        raise ValueError(
            f"prompts and new tokens fill {tokens} slots, but {free} of the cache's {slots} are "
            "free; make it larger, or max_new_tokens smaller"
        )


def _spread(key: PRNGKeyArray, batch: int) -> PRNGKeyArray:
    """A key for each prompt."""
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise ValueError(f"{batch} prompts, but keys {list(key.shape)}; give one key, or one each")
    return key
