"""Texts in, texts out: generation with stop strings, and shown while it goes on."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lora_jax.evaluation.beam import BeamSearch
from lora_jax.evaluation.decode import begin_decoding, continue_decoding
from lora_jax.evaluation.generate import Generated, generate
from lora_jax.evaluation.growing_text import GrowingText
from lora_jax.evaluation.request import Request, check_request
from lora_jax.evaluation.rules import require
from lora_jax.evaluation.sampling import Sampling
from lora_jax.hub import Encoded, Pretrained, Prompt

# What is called with the row of a text and the next piece of it.
Callback = Callable[[int, str], None]


class Completion(NamedTuple):
    """One generated text.

    Attributes:
        text: what follows the prompt, without special tokens and without the stop string.
        tokens: its token ids, with the token that ended it: a stop token, or the one that
            completed a stop string.
        score: as in `Generated`; of a text that a stop string ended, the sum over `tokens`.
        finished: whether a stop token or string ended it, and not its largest length.
    """

    text: str
    tokens: list[int]
    score: float
    finished: bool


def generate_text(
    model: Pretrained,
    prompts: Sequence[str] | Encoded | Prompt,
    *,
    max_new_tokens: int,
    search: Sampling | BeamSearch | None = None,
    stop: Sequence[str] = (),
    sequences: int = 1,
    key: Array | None = None,
    callback: Callback | None = None,
    chunk: int = 16,
    **inputs: Any,
) -> list[Completion]:
    """Continues texts, or with an encoder–decoder answers them; the tokens are `generate`'s.

    Args:
        model: a language model with its tokenizer; `model._replace(apply=…, params=…)` adds an
            adapter.
        prompts: texts; or what a tokenizer or a processor of images has made of them.
        max_new_tokens: largest number of new tokens.
        search: `Sampling(…)` or `BeamSearch(…)`; None is greedy.
        stop: strings that end a text, wherever they lie in its tokens; for sampling only.
        sequences: number of texts for each prompt.
        key: source of randomness, or one key for each prompt.
        callback: called with the row of a text and its next piece, as soon as neither half a
            character nor the beginning of a stop string is in it. Rows are numbered as those that
            are returned. A beam search knows its texts only at the end.
        chunk: number of tokens that are generated between two looks at them. A text that a stop
            string ends may cost as many more tokens, which are thrown away.
        **inputs: what else `model.apply` takes with a prompt.

    Returns:
        The texts, those of one prompt side by side.

    Raises:
        ValueError: a setting or the prompts do not fit the model or each other.
    """
    require(chunk >= 1, "chunk", chunk, "at least 1")
    require(not isinstance(stop, str) and all(stop), "stop", stop, "a sequence of texts, not empty")
    if isinstance(prompts, Prompt):
        inputs = prompts.inputs | inputs
    elif not isinstance(prompts, Encoded):
        prompts = model.tokenizer.encode(prompts, side="left")
    ids, mask = prompts.ids, prompts.mask
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "search": search,
        "sequences": sequences,
    }
    begin = functools.partial(GrowingText, model.tokenizer, tuple(stop))
    if isinstance(search, BeamSearch):
        if stop:
            raise ValueError("a beam search cannot end at stop strings; use stop_ids, or Sampling")
        made = generate(
            model.apply, model.params, ids, mask, config=model.config, **options, **inputs
        )
        return _show(made, begin, callback)
    asked = check_request(ids, mask, config=model.config, key=key, cache=None, **options)
    return _sample(model, asked, inputs, begin, callback, chunk)


def _sample(
    model: Pretrained,
    asked: Request,
    inputs: dict[str, Any],
    begin: Callable[[], GrowingText],
    callback: Callback | None,
    chunk: int,
) -> list[Completion]:
    """Generates texts a few tokens at a time."""
    apply, params, config = model.apply, model.params, model.config
    (search, new, sequences), ids, mask, keys = asked
    state = _begin(apply, config, search, new, sequences, params, ids, mask, None, keys, inputs)
    texts = [begin() for _ in range(len(state.text))]
    shown = 0
    while True:
        step, finished = int(state.step), np.array(state.finished)
        finished_or_full = finished | (step == new)
        tokens = np.asarray(state.new_tokens)[:, shown:step]
        for row, text in enumerate(texts):
            new_ids = tokens[row][tokens[row] >= 0]
            _call(callback, row, text.add(new_ids, last=bool(finished_or_full[row])))
            finished[row] |= text.stopped
        if step == new or finished.all():
            break
        shown = step
        state = state._replace(finished=jnp.asarray(finished))
        until = jnp.int32(min(step + chunk, new))
        state = _continue(apply, config, search, params, state, until)
    logprobs = np.asarray(state.logprobs)
    return [
        Completion(
            text.text,
            text.tokens,
            float(logprobs[row, : len(text.tokens)].sum()),
            bool(finished[row]),
        )
        for row, text in enumerate(texts)
    ]


_begin = jax.jit(begin_decoding, static_argnums=(0, 1, 2, 3, 4))
# The cache is written in place: a chunk does not copy it.
_continue = jax.jit(continue_decoding, static_argnums=(0, 1, 2), donate_argnums=4)


def _show(
    made: Generated, begin: Callable[[], GrowingText], callback: Callback | None
) -> list[Completion]:
    """Turns tokens that are all there into texts."""
    completions = []
    for row, (tokens, length, _, score, finished) in enumerate(
        zip(*(np.asarray(x) for x in made), strict=True)
    ):
        text = begin()
        _call(callback, row, text.add(tokens[:length], last=True))
        completions.append(Completion(text.text, text.tokens, float(score), bool(finished)))
    return completions


def _call(callback: Callback | None, row: int, piece: str) -> None:
    if callback is not None and piece:
        callback(row, piece)
