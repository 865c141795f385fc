"""Continuous batching: texts with adapters of their own join and leave a batch that never stops.

A batch of fixed size decodes one token of every row at a time. A row that is done is given to the
next request at once: its prompt is read into the row's cache and its adapter's factors are copied
beside it, while the other rows keep theirs. Iteration-level scheduling: Yu et al., "Orca", OSDI
2022, section 4.1.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lora_jax.adapters import AdapterPool
from lora_jax.evaluation.draw import Drawing
from lora_jax.evaluation.running_batch import admit, advance, empty_batch
from lora_jax.evaluation.sampling import Sampling


class QueueFullError(RuntimeError):
    """More requests wait than the engine lets wait."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRequest:
    """A text that is asked for.

    Args:
        ids: the prompt, at least one token.
        adapter: its name in the pool; None: the base alone.
        max_new_tokens: the largest number of new tokens, at least 1.
        temperature: 0 takes the likeliest token.
        top_k: draw among so many of the likeliest tokens; 0: among all.
        top_p: draw among the fewest tokens that together have this probability.
        seed: of the randomness, from 0 to 2³¹ - 1. The text depends on the prompt, the adapter and
            these settings, not on what else is in the batch.
        stop_ids: tokens that end the text beside those of the model.
    """

    ids: tuple[int, ...]
    adapter: str | None = None
    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop_ids: tuple[int, ...] = ()


class NewToken(NamedTuple):
    """A token of some request's text.

    Attributes:
        number: of the request, as `Engine.submit` gave it.
        token: its id; None where the text ends without one.
        logprob: its log probability by the model.
        end: why the text ends with it: "stop" (a stop token), "length", "unloaded" (its adapter was
            gone when its turn came), "cancelled"; None: it goes on.
    """

    number: int
    token: int | None
    logprob: float
    end: Literal["stop", "length", "unloaded", "cancelled"] | None


@dataclasses.dataclass
class _Text:
    """A request in a row of the batch."""

    number: int
    request: TextRequest
    written: int = 0


class Engine:
    """Writes the texts of many requests, each with an adapter of a pool, in one batch.

    Two programs are compiled: one that reads a prompt, for each of the prompt lengths, and one that
    writes a token of every row. It is not safe to be called from several threads.

    Args:
        pool: the base and its adapters.
        config: the model's config; a decoder.
        rows: how many texts are written at a time.
        room: tokens that a row holds, the padding of its prompt included.
        prompt_lengths: a prompt is padded to the shortest of these that holds it.
        queue_limit: how many requests may wait.

    Raises:
        ValueError: a number below 1, or more room than the model has positions.
    """

    def __init__(
        self,
        pool: AdapterPool,
        config: Any,
        *,
        rows: int = 8,
        room: int = 256,
        prompt_lengths: Sequence[int] = (16, 64, 128),
        queue_limit: int = 1024,
    ) -> None:
        self.pool, self.config, self.room = pool, config, room
        self.prompt_lengths = sorted(prompt_lengths)
        self.queue_limit = queue_limit
        if min(rows, room, queue_limit, *self.prompt_lengths) < 1:
            raise ValueError("rows, room, queue_limit and prompt_lengths are at least 1")
        if self.prompt_lengths[-1] > room:
            raise ValueError(f"room = {room}, but prompts have up to {self.prompt_lengths[-1]}")
        if config.max_length is not None and room > config.max_length:
            raise ValueError(f"room = {room}, but the model has {config.max_length} positions")
        self._queue: collections.deque[_Text] = collections.deque()
        self._rows: list[_Text | None] = [None] * rows
        self._numbers = itertools.count()
        self._cancelled: set[int] = set()
        bound = functools.partial(admit, pool.routed.apply, config, room)
        self._admit = jax.jit(bound, donate_argnums=1)
        self._advance = jax.jit(
            functools.partial(advance, pool.routed.apply, config), donate_argnums=1
        )
        self._batch = empty_batch(pool, config, room, rows)

    def submit(self, request: TextRequest) -> int:
        """Lets a request wait for a free row.

        Returns:
            Its number, which its tokens bear.

        Raises:
            ValueError: it does not fit the model, the room or the pool.
            QueueFullError: too many wait.
        """
        self._check(request)
        if len(self._queue) >= self.queue_limit:
            raise QueueFullError(f"{len(self._queue)} requests wait, and no more may: try later")
        number = next(self._numbers)
        self._queue.append(_Text(number, request))
        return number

    def cancel(self, number: int) -> None:
        """Ends a request before the next token; one that has ended is left alone."""
        if any(text.number == number for text in (*self._queue, *filter(None, self._rows))):
            self._cancelled.add(number)

    @property
    def waiting(self) -> int:
        """How many requests wait for a row."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """How many texts are being written."""
        return sum(text is not None for text in self._rows)

    def most_new_tokens(self, prompt: int) -> int:
        """How many new tokens a row has room for behind a prompt of so many tokens.

        Raises:
            ValueError: the prompt is longer than the longest of `prompt_lengths`.
        """
        if prompt > self.prompt_lengths[-1]:
            raise ValueError(
                f"the prompt is {prompt} tokens, and the longest is {self.prompt_lengths[-1]}"
            )
        return self.room - self._prompt_length(prompt) + 1  # the last one is not read

    def step(self) -> list[NewToken]:
        """Gives free rows to waiting requests, and writes one token of every row.

        Returns:
            The new tokens: the first one of each new text, and one more of all.
        """
        events = self._drop_cancelled()
        for row, text in enumerate(self._rows):
            if text is None and self._queue:
                events += self._start(row)
        if self.running:
            busy = np.array([text is not None for text in self._rows])
            self._batch, tokens, logprobs = self._advance(self.pool.params, self._batch, busy)
            pairs = zip(np.asarray(tokens).tolist(), np.asarray(logprobs).tolist(), strict=True)
            for row, (token, logprob) in enumerate(pairs):
                if self._rows[row] is not None:
                    events.append(self._note(row, token, logprob))
        return events

    def run(self) -> dict[int, list[NewToken]]:
        """Writes until nothing waits or runs; all new tokens by request."""
        texts: dict[int, list[NewToken]] = {}
        while self.waiting or self.running:
            for event in self.step():
                texts.setdefault(event.number, []).append(event)
        return texts

    # -- rows

    def _start(self, row: int) -> list[NewToken]:
        """Gives a row to the next request, whose prompt is read and first token chosen."""
        text = self._queue.popleft()
        request = text.request
        if request.adapter is not None and request.adapter not in self.pool:
            return [NewToken(text.number, None, 0.0, "unloaded")]
        ids, mask = _padded(request.ids, self._prompt_length(len(request.ids)))
        drawing = Drawing(
            jnp.asarray([request.temperature], jnp.float32),
            jnp.asarray([request.top_k], jnp.int32),
            jnp.asarray([request.top_p], jnp.float32),
            jnp.asarray([request.seed], jnp.uint32),
        )
        factors = self.pool.factors([request.adapter])
        self._batch, token, logprob = self._admit(
            self.pool.params, self._batch, factors, np.int32(row), ids, mask, drawing
        )
        self._rows[row] = text
        return [self._note(row, int(token), float(logprob))]

    def _note(self, row: int, token: int, logprob: float) -> NewToken:
        """Counts a token of a row, and frees the row if it was the last one."""
        text = self._rows[row]
        assert text is not None
        text.written += 1
        end: Literal["stop", "length"] | None = None
        if token in (*self.config.eos_ids, *text.request.stop_ids):
            end = "stop"
        elif text.written == text.request.max_new_tokens:
            end = "length"
        if end is not None:
            self._rows[row] = None
        return NewToken(text.number, token, logprob, end)

    def _drop_cancelled(self) -> list[NewToken]:
        gone = self._cancelled
        self._queue = collections.deque(t for t in self._queue if t.number not in gone)
        self._rows = [None if t is None or t.number in gone else t for t in self._rows]
        self._cancelled = set()
        return [NewToken(number, None, 0.0, "cancelled") for number in sorted(gone)]

    # -- what is asked for

    def _prompt_length(self, tokens: int) -> int:
        return next(length for length in self.prompt_lengths if length >= tokens)

    def _check(self, request: TextRequest) -> None:
        # Says what is wrong with them.
        Sampling(temperature=request.temperature, top_k=request.top_k, top_p=request.top_p)
        vocab = self.config.vocab_size
        if not request.ids or not all(0 <= token < vocab for token in request.ids):
            raise ValueError(f"a prompt is one or more tokens from 0 to {vocab - 1}")
        left = self.most_new_tokens(len(request.ids))
        if not 1 <= request.max_new_tokens <= left:
            raise ValueError(
                f"max_new_tokens = {request.max_new_tokens}; after this prompt it is from 1 to "
                f"{left}"
            )
        if not 0 <= request.seed < 2**31:
            raise ValueError(f"seed = {request.seed}; it is from 0 to 2**31 - 1")
        if request.adapter is not None:
            self.pool.check_known(request.adapter)


def _padded(ids: Sequence[int], length: int) -> tuple[Array, Array]:
    """One prompt as a batch, with padding behind it, and its mask."""
    row = np.zeros((1, length), np.int32)
    mask = np.zeros((1, length), np.int32)
    row[0, : len(ids)] = ids
    mask[0, : len(ids)] = 1
    return jnp.asarray(row), jnp.asarray(mask)
