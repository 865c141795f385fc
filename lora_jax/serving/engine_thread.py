"""An engine in a thread of its own, and coroutines that are told its tokens.

The thread alone touches the engine and its pool. It never waits for a reader: tokens go to queues
without a limit, and a text has no more of them than its request asked for.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from typing import Any

from lora_jax.evaluation import Engine, NewToken, TextRequest


class EngineFailedError(RuntimeError):
    """The engine has broken down: what it was writing is lost, and it writes no more."""


class _Reader:
    """Who reads a text: its number, once the engine has given it one, and its new tokens."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.tokens: asyncio.Queue[NewToken | EngineFailedError] = asyncio.Queue()


class EngineThread:
    """Runs an engine in a thread, from `start` to `stop`, for coroutines of one event loop.

    Args:
      engine: nobody else may use it, or its pool, meanwhile.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._inbox: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._readers: dict[int, _Reader] = {}
        self._stopped = False
        self._failure: EngineFailedError | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self, on_failure: Callable[[], None]) -> None:
        """Starts the thread; `on_failure` is called in the event loop if the engine breaks down."""
        self._loop = asyncio.get_running_loop()
        self._on_failure = on_failure
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread; texts that are being written are not finished."""
        if self._thread.is_alive():
            self._post(setattr, self, "_stopped", True)
            await asyncio.to_thread(self._thread.join)

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a function in the thread, between two tokens.

        Raises:
          EngineFailedError: the engine has broken down.
        """
        return await asyncio.wrap_future(self._post(function, *args))

    async def write(self, request: TextRequest) -> AsyncGenerator[NewToken, None]:
        """The tokens of a text as they are written; closing it early cancels the text.

        Raises:
          ValueError: the request does not fit the model, the room or the pool.
          QueueFullError: too many wait.
          EngineFailedError: the engine has broken down.
        """
        reader, ended = _Reader(), False
        try:
            await self.call(self._submit, reader, request)
            while not ended:
                token = await reader.tokens.get()
                if isinstance(token, EngineFailedError):
                    raise token
                ended = token.end is not None
                yield token
        finally:
            if not ended:
                self._post(self._cancel, reader)

    def cancel_all(self) -> None:
        """Ends all texts, whose readers are told."""
        self._post(self._cancel_all)

    # -- in the thread

    def _run(self) -> None:
        while not self._stopped:
            self._obey()
            if self._busy:
                try:
                    self._tell(self._engine.step())
                except Exception as error:  # whatever it is, readers must not wait for ever
                    self._fail(error)

    @property
    def _busy(self) -> bool:
        return self._failure is None and bool(self._engine.waiting or self._engine.running)

    def _obey(self) -> None:
        """Does all that was posted; waits for something if there is nothing to write."""
        wait = not self._busy
        while True:
            try:
                future, function = self._inbox.get(block=wait)
            except queue.Empty:
                return
            wait = False
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

    def _submit(self, reader: _Reader, request: TextRequest) -> None:
        if self._failure is not None:
            raise self._failure
        reader.number = self._engine.submit(request)
        self._readers[reader.number] = reader

    def _cancel(self, reader: _Reader) -> None:
        if reader.number in self._readers:
            self._engine.cancel(reader.number)

    def _cancel_all(self) -> None:
        for reader in self._readers.values():
            self._cancel(reader)

    def _tell(self, tokens: Sequence[NewToken]) -> None:
        told = [(self._readers[token.number], token) for token in tokens]
        for token in tokens:
            if token.end is not None:
                del self._readers[token.number]
        self._in_loop(_put, told)

    def _fail(self, error: Exception) -> None:
        self._failure = EngineFailedError(f"the engine has broken down: {error!r}")
        self._failure.__cause__ = error
        readers, self._readers = self._readers, {}
        self._in_loop(_put, [(reader, self._failure) for reader in readers.values()])
        self._in_loop(self._on_failure)

    # -- between the two

    def _post(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._inbox.put((future, functools.partial(function, *args)))
        return future

    def _in_loop(self, function: Callable[..., None], *args: Any) -> None:
        self._loop.call_soon_threadsafe(function, *args)


def _put(told: Sequence[tuple[_Reader, NewToken | EngineFailedError]]) -> None:
    for reader, token in told:
        reader.tokens.put_nowait(token)
