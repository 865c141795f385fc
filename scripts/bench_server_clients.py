"""Texts that many connections ask for without a pause, of an engine or of a server."""

from __future__ import annotations

import collections
import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from lora_jax.evaluation import Engine, GrowingText, TextRequest


class Text(NamedTuple):
    """A text, seconds to its first token, and seconds for each token after that."""

    text: str
    first: float
    each: float


class Load(NamedTuple):
    """The texts of all requests, in their order, and the seconds until the last was there."""

    texts: list[Text]
    seconds: float


def ask_engine(
    engine: Engine, tokenizer: Any, requests: Sequence[TextRequest], connections: int
) -> Load:
    """All texts of an engine that has so many requests at a time."""
    waiting = collections.deque(enumerate(requests))
    open_: dict[int, tuple[int, float]] = {}
    tokens: dict[int, list[tuple[int, float]]] = {}
    texts: dict[int, Text] = {}
    start = time.perf_counter()
    while waiting or open_:
        while waiting and len(open_) < connections:
            place, request = waiting.popleft()
            open_[engine.submit(request)] = place, time.perf_counter()
        for event in engine.step():
            assert event.token is not None, event.end
            told = tokens.setdefault(event.number, [])
            told.append((event.token, time.perf_counter()))
            if event.end is not None:
                place, asked = open_.pop(event.number)
                ids, times = zip(*tokens.pop(event.number), strict=True)
                growing = GrowingText(tokenizer, ())
                growing.add(ids, last=True)
                texts[place] = _text(growing.text, asked, times)
    return Load([texts[i] for i in range(len(requests))], time.perf_counter() - start)


def ask_server(
    address: str, requests: Sequence[TextRequest], connections: int, *, stream: bool
) -> Load:
    """All texts of a server that is asked by so many connections."""
    waiting = iter(enumerate(requests))
    texts: dict[int, Text] = {}
    failures: list[BaseException] = []
    lock = threading.Lock()

    def ask_all() -> None:
        connection = http.client.HTTPConnection(address)
        try:
            while (item := _next(waiting, lock)) is not None:
                texts[item[0]] = _ask(connection, item[1], stream)
        except BaseException as failure:
            failures.append(failure)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask_all) for _ in range(connections)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return Load([texts[i] for i in range(len(requests))], time.perf_counter() - start)


def _next(waiting: Iterator[Any], lock: threading.Lock) -> Any:
    with lock:
        return next(waiting, None)


def _ask(connection: http.client.HTTPConnection, request: TextRequest, stream: bool) -> Text:
    """One text over a connection that stays open."""
    fields = {"model": request.adapter, "prompt": request.ids, "temperature": 0, "stream": stream}
    body = json.dumps(fields | {"max_tokens": request.max_new_tokens})
    asked = time.perf_counter()
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {response.read().decode()}")
    if not stream:
        text = json.loads(response.read())["choices"][0]["text"]
        return _text(text, asked, [time.perf_counter()])
    events, times = [], []
    for line in response:
        if line.startswith(b"data: {"):
            times.append(time.perf_counter())
            events.append(line)
    parts = [json.loads(line.removeprefix(b"data: "))["choices"][0]["text"] for line in events]
    return _text("".join(parts), asked, times)


def _text(text: str, asked: float, times: Sequence[float]) -> Text:
    each = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else float("nan")
    return Text(text, times[0] - asked, each)
