"""Text from a language model: prompts in, new tokens out, in one compiled program."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lora_jax.evaluation.beam import BeamSearch, search_beams
from lora_jax.evaluation.decode import Decoding, begin_decoding, continue_decoding
from lora_jax.evaluation.passes import is_stop
from lora_jax.evaluation.request import check_request
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
    key: Array | None = None,
    cache: Any = None,
    **inputs: Any,
) -> Generated:
    """Continues prompts, or with an encoder–decoder answers them.

    Reading the prompts and the loop over new tokens are one program. It is compiled once for each
    `apply`, config, settings and shape of `ids`, so pad prompts to few lengths, and make an `apply`
    of your own once, not anew for each call. On CPU load models with `scan=False`: a scan copies
    the weights of each layer before it reads them, for each token.

    Args:
        apply: a language model, as `models.build` makes it; or any function of that kind, such as
            `lambda v, *args, **named: lifted(v["params"], v["factors"], *args, **named)`.
        params: whatever `apply` takes first; layers may be apart (`models.unstack`), which saves
            unrolled ones a copy of their weights.
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
    keys: Array | None,
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
