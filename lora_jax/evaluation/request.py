"""What generation is asked for, checked before anything is compiled."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from lora_jax.evaluation.beam import BeamSearch
from lora_jax.evaluation.passes import start_id
from lora_jax.evaluation.sampling import Sampling


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
    keys: Key[Array, " batch"] | None


def check_request(
    ids: Any,
    mask: Any,
    *,
    config: Any,
    max_new_tokens: int,
    search: Sampling | BeamSearch | None,
    sequences: int,
    key: Array | None,
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
    beams = search.beams if isinstance(search, BeamSearch) else None
    if sequences < 1 or (beams is not None and sequences > beams):
        limit = "" if beams is None else f" and at most the number of beams, {beams}"
        raise ValueError(f"sequences = {sequences}; it must be at least 1{limit}")
    if sequences > 1 and not random and beams is None:
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


def _spread(key: Array, batch: int) -> Key[Array, " batch"]:
    """A key for each prompt."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise ValueError(f"{batch} prompts, but keys {list(key.shape)}; give one key, or one each")
    return key
