"""Texts of a base and its adapters by name, for many clients at a time, without HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator
from typing import Any, Literal, NamedTuple, cast

from lora_jax import hub
from lora_jax.evaluation import Engine, GrowingText, NewToken, QueueFullError, TextRequest
from lora_jax.hub.chat import BrokenTemplateError
from lora_jax.serving.asked import Asked
from lora_jax.serving.catalog import Catalog
from lora_jax.serving.directories import AdapterRoot
from lora_jax.serving.engine_thread import EngineFailedError, EngineThread
from lora_jax.serving.errors import ApiError, busy, ending
from lora_jax.serving.metrics import Metrics

End = Literal["stop", "length"] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server takes at most.

    Args:
      adapters: loaded at a time.
      new_tokens: of a text.
      open: texts that wait, are written or are still being read by their clients; and as many
        bodies may be on their way here.
      seconds: from a request to the last token of its text; also to send a body.
      body_bytes: of a request.

    Raises:
      ValueError: a limit too small to serve anything.
    """

    adapters: int = 64
    new_tokens: int = 512
    open: int = 128
    seconds: float = 120.0
    body_bytes: int = 2**20

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not (value > 0 or (name == "adapters" and value == 0)):
                raise ValueError(f"{name} = {value}: nothing could be served")


class Piece(NamedTuple):
    """The next part of a text.

    Attributes:
      text: may be empty.
      end: why the text ends with it; None: it goes on.
      prompt_tokens: of the prompt.
      new_tokens: of the text so far.
    """

    text: str
    end: End
    prompt_tokens: int
    new_tokens: int


class Service:
    """A base and its adapters, which can be loaded and unloaded while texts are written.

    It is used within ``async with``, by coroutines of one event loop.

    Args:
      model: the base, with its tokenizer.
      engine: over a pool of that base; the service has it alone from now on.
      name: what clients call the base.
      root: where adapters lie; None: none can be loaded.
      limits: what is taken at most.
    """

    def __init__(
        self,
        model: hub.Pretrained,
        engine: Engine,
        *,
        name: str,
        root: AdapterRoot | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.model, self.engine, self.limits = model, engine, limits or Limits()
        self.open = 0
        self.reading = 0
        self.draining = False
        self.failed = asyncio.Event()
        self.metrics = Metrics(
            {
                "rows_running": ("Texts that are being written.", lambda: engine.running),
                "requests_waiting": ("Requests that wait for a row.", lambda: engine.waiting),
                "requests_open": ("Texts that clients wait for or read.", lambda: self.open),
                "adapters": ("Adapters that are loaded.", lambda: self.catalog.adapters),
            }
        )
        self._thread = EngineThread(engine)
        self.catalog = Catalog(
            model, engine.pool, self._thread, name=name, root=root, most=self.limits.adapters
        )

    async def __aenter__(self) -> Service:
        self._thread.start(self.failed.set)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._thread.stop()

    # -- texts

    async def write(self, asked: Asked) -> AsyncGenerator[Piece, None]:
        """The pieces of a text as they come; closing it early cancels the text.

        Raises:
          ApiError: it cannot be written, or not to its end.
        """
        start = time.monotonic()
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        request = self._request(asked)
        text = GrowingText(self.model.tokenizer, asked.stop)
        self.open += 1
        try:
            async with contextlib.aclosing(self._thread.write(request)) as tokens:
                end: End = None
                while end is None:
                    token = await self._next(tokens, deadline)
                    if not text.tokens:
                        self.metrics.first_token.observe(time.monotonic() - start)
                        self.metrics.tokens.labels("prompt").inc(len(request.ids))
                    self.metrics.tokens.labels("new").inc()
                    piece = text.add([token.token], last=token.end is not None)
                    end = cast(End, "stop" if text.stopped else token.end)
                    if end is not None:  # who has the last piece may close the rest
                        self.metrics.whole_text.observe(time.monotonic() - start)
                    yield Piece(piece, end, len(request.ids), len(text.tokens))
        finally:
            self.open -= 1

    async def _next(self, tokens: AsyncGenerator[NewToken, None], deadline: float) -> Any:
        """The next token, or an error that says why there is none."""
        try:
            async with asyncio.timeout_at(deadline):
                token = await anext(tokens)
        except TimeoutError as error:
            raise ApiError(
                504,
                f"the text was not finished in {self.limits.seconds:g} s: ask for fewer tokens, "
                "or when fewer requests wait",
                code="timeout",
            ) from error
        except QueueFullError as error:
            raise busy(str(error)) from error
        except EngineFailedError as error:
            raise ApiError(500, str(error), code="engine_failed") from error
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        if token.end == "unloaded":
            raise ApiError(
                404, "the adapter was unloaded while the request waited", code="model_not_found"
            )
        if token.end == "cancelled":
            raise ending()
        return token

    def _request(self, asked: Asked) -> TextRequest:
        """The request for the engine, after all checks."""
        if self.draining:  # its body came late
            raise ending()
        self.catalog.check_known(asked.model)
        if self.open >= self.limits.open:
            raise busy(f"{self.open} texts are waited for, and no more may be: try later")
        ids = self._encode(asked)
        try:
            left = min(self.engine.most_new_tokens(len(ids)), self.limits.new_tokens)
        except ValueError as error:
            raise ApiError(400, str(error), code="context_length_exceeded") from error
        wanted = left if asked.max_tokens is None else asked.max_tokens
        if wanted > left:
            raise ApiError(
                400,
                f"max_tokens = {wanted}; after this prompt of {len(ids)} tokens it is at most "
                f"{left}",
                code="context_length_exceeded",
                param="max_tokens",
            )
        return TextRequest(
            ids=ids,
            adapter=None if asked.model == self.catalog.base else asked.model,
            max_new_tokens=wanted,
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            seed=asked.seed,
        )

    def _encode(self, asked: Asked) -> tuple[int, ...]:
        if isinstance(asked.prompt, tuple):
            return asked.prompt
        tokenizer, text = self.model.tokenizer, asked.prompt
        try:
            if asked.chat:
                text = tokenizer.apply_chat_template(text, add_generation_prompt=True)
            (ids,) = tokenizer.encode_ragged([text], special=not asked.chat)
        except BrokenTemplateError as error:
            raise ApiError(
                500,
                f"{error}. The template is this server's, so other messages may fail too; "
                "/v1/completions takes a text as it is",
                code="chat_template_failed",
            ) from error
        except ValueError as error:
            raise ApiError(400, str(error), param="messages" if asked.chat else "prompt") from error
        return tuple(ids.tolist())

    # -- the end

    async def drain(self, seconds: float) -> None:
        """Takes no more requests, and waits so long for the texts that are open to end."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.open and not self.failed.is_set():
                    await asyncio.sleep(0.02)

    def cancel_all(self) -> None:
        """Ends all texts, whose clients are told."""
        self._thread.cancel_all()
