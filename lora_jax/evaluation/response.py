"""How long a language model takes to answer: to the first token, and for each token after it.

TTFT, the time to first token, is that of reading the prompt and choosing a token. TPOT, the time
per output token, is that of the decoding loop with its KV cache, over the tokens that it made. As
servers are measured (vLLM's `benchmark_serving`), there is one TPOT for each answer, and p95 is
over answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from lora_jax.evaluation.decode import Decoding, begin_decoding, continue_decoding
from lora_jax.evaluation.latency import Latency, timed, turns
from lora_jax.evaluation.request import Request, check_request

Model = tuple[Callable[..., Any], Any]  # `apply`, and what it takes first


class ResponseTimes(NamedTuple):
    """What a model was timed at, in the order of the rounds.

    Attributes:
      first: TTFT, the time to first token.
      token: TPOT, the time of each later token; None of a model that writes none.
    """

    first: Latency
    token: Latency | None = None

    @property
    def main(self) -> Latency:
        """TPOT of a model that writes, TTFT of one that does not."""
        return self.first if self.token is None else self.token


def measure_responses(
    models: Mapping[str, Model],
    config: Any,
    ids: Int[np.ndarray, "batch length"] | Int[Array, "batch length"],
    *,
    new_tokens: int,
    rounds: int = 50,
    warmup: int = 2,
    seed: int = 0,
) -> dict[str, ResponseTimes]:
    """Times language models in turn: in every round each of them answers once, in random order.

    Args:
      models: `apply` and its params, by name. With an adapter beside them, an `apply` of
        `{"params", "adapter"}`. Models of the same `apply`, such as merged ones, share a program.
      config: of all of them.
      ids: prompts, all tokens of which are real.
      new_tokens: tokens of each answer, at least 2; none ends earlier.
      rounds: how often each is timed, at least 1.
      warmup: untimed answers of each beforehand; they compile.
      seed: of the order.

    Returns:
      The times of each.

    Raises:
      ValueError: there is nothing to time, or prompts and answers do not fit the model.

    >>> from lora_jax import models
    >>> config = models.GPT2Config(vocab_size=9, dim=8, heads=2, layers=1, ff_dim=8, eos_ids=())
    >>> model = models.build(config).apply, models.init(config, jax.random.key(0))
    >>> ids = np.array([[1, 2, 3]])
    >>> times = measure_responses({"base": model}, config, ids, new_tokens=4, rounds=3)
    >>> times["base"].token.seconds.shape
    (3,)
    """
    if not models or rounds < 1 or warmup < 0 or new_tokens < 2:
        raise ValueError(
            f"nothing to time: {len(models)} models, {rounds=}, {warmup=}, {new_tokens=} of which "
            "the first belongs to the prompt"
        )
    config = dataclasses.replace(config, eos_ids=())  # no answer may end early
    asked = check_request(
        ids,
        None,
        config=config,
        max_new_tokens=new_tokens,
        search=None,
        sequences=1,
        key=None,
        cache=None,
    )
    for model in models.values():
        for _ in range(warmup):
            _answer(model, config, asked)
    first = {name: np.empty(rounds) for name in models}
    token = {name: np.empty(rounds) for name in models}
    for round_, name in turns(list(models), rounds, seed):
        first[name][round_], token[name][round_] = _answer(models[name], config, asked)
    return {name: ResponseTimes(Latency(first[name]), Latency(token[name])) for name in models}


def _answer(model: Model, config: Any, asked: Request) -> tuple[float, float]:
    """Seconds to the first token, and for each later one."""
    (apply, params), (search, new, sequences) = model, asked.settings
    begin = partial(_begin, apply, config, search, new, sequences, params, asked.ids, asked.mask)
    state, to_first = timed(partial(begin, None, None, {}))
    until = jnp.int32(new)
    _, of_others = timed(partial(_continue, apply, config, search, params, state, until))
    return to_first, of_others / (new - 1)


_begin: Callable[..., Decoding] = jax.jit(begin_decoding, static_argnums=(0, 1, 2, 3, 4))
# The cache is written in place: decoding does not copy it.
_continue: Callable[..., Decoding] = jax.jit(
    continue_decoding, static_argnums=(0, 1, 2), donate_argnums=4
)
