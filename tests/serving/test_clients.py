"""Clients that leave, read slowly or are too many; and the end of a server."""

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest
import uvicorn

from lora_jax.serving import Limits, Service, listen, serve
from tests.serving import tiny
from tests.serving.test_api import client

BODY = {"model": "base", "prompt": [9] * 8, "max_tokens": 25, "temperature": 0}


def say(api, **options):
    return api.completions.create(**BODY | options)


def test_a_client_that_leaves_frees_its_row_and_its_place_in_the_queue(model, engine):
    with tiny.server(model, engine) as (service, address), tiny.paced(engine) as gate:
        bodies = [BODY | {"stream": bool(i % 2)} for i in range(tiny.ROWS + 2)]
        connections = [tiny.open_connection(address, body) for body in bodies]
        tiny.until(lambda: engine.waiting == tiny.ROWS + 2)
        gate.release(2)
        tiny.until(lambda: engine.running == tiny.ROWS)
        assert engine.waiting == 2
        assert service.open == tiny.ROWS + 2
        for connection in connections:
            connection.close()
        tiny.until(lambda: service.open == 0)
        gate.release(2)
        tiny.until(lambda: engine.running == engine.waiting == 0)
    # Nobody was left to be told more.
    assert service._thread._readers == {}


def test_more_texts_than_may_be_open_are_refused_for_now(model, engine):
    with tiny.server(model, engine, limits=Limits(open=2)) as (service, address):
        api = client(address)
        with ThreadPoolExecutor() as threads, tiny.paced(engine):
            texts = [threads.submit(say, api) for _ in range(2)]
            tiny.until(lambda: service.open == 2)
            with pytest.raises(openai.RateLimitError, match="no more may be: try later") as error:
                say(api)
            assert error.value.response.headers["retry-after"] == "1"
            assert error.value.code == "queue_full"
        assert texts[0].result().choices == texts[1].result().choices
        assert say(api).choices == texts[0].result().choices


def test_a_full_queue_of_the_engine_is_refused_for_now(model, engine, monkeypatch):
    monkeypatch.setattr(engine, "queue_limit", 1)
    with tiny.server(model, engine) as (_, address):
        api = client(address)
        with ThreadPoolExecutor() as threads, tiny.paced(engine):
            text = threads.submit(say, api)
            tiny.until(lambda: engine.waiting == 1)
            with pytest.raises(openai.RateLimitError, match="1 requests wait, and no more may"):
                say(api, stream=True)
        assert text.result().choices


def test_a_text_that_takes_too_long_is_given_up(model, engine):
    with tiny.server(model, engine, limits=Limits(seconds=1.0)) as (service, address):
        api = client(address)
        with tiny.paced(engine) as gate:
            with pytest.raises(openai.InternalServerError, match=r"not finished in 1 s") as error:
                say(api)
            assert error.value.status_code == 504
            gate.release(3)  # one drops the other, one or two begin this one
            stream = say(api, stream=True)
            assert next(iter(stream)).choices[0].finish_reason is None
            with pytest.raises(openai.APIError, match=r"not finished in 1 s"):
                list(stream)
            gate.release(2)
            tiny.until(lambda: engine.running == engine.waiting == service.open == 0)


def test_a_body_that_takes_too_long_is_given_up(model, engine):
    def slow_body():
        yield b'{"model": '
        time.sleep(1)
        yield b'"base"}'

    with tiny.server(model, engine, limits=Limits(seconds=0.3)) as (_, address):
        kind = {"Content-Type": "application/json"}
        found = httpx2.post(f"{address}/v1/completions", content=slow_body(), headers=kind)
    assert found.status_code == 408
    assert "the body did not come in 0.3 s" in found.json()["error"]["message"]


@pytest.mark.slow
def test_readers_who_read_nothing_hold_no_row_and_are_cut_off(
    long_model, long_engine, longest, small_buffers
):
    body = longest[0] | {"stream": True}
    limits = Limits(seconds=4.0, new_tokens=tiny.LONG_ROOM)
    with tiny.server(long_model, long_engine, limits=limits) as (service, address):
        api = client(address)
        say(api)
        files = len(os.listdir("/proc/self/fd"))
        connections = [tiny.open_connection(address, body) for _ in range(tiny.ROWS)]
        tiny.until(lambda: service.open == tiny.ROWS)
        tiny.until(lambda: long_engine.running == long_engine.waiting == 0)
        # All texts are written, and their rows free, while nobody has read anything.
        assert service.open == tiny.ROWS
        assert say(api).choices
        tiny.until(lambda: service.open == 0)
        assert service._thread._readers == {}
        # The connections are closed too, though what was sent has not been read.
        tiny.until(lambda: len(os.listdir("/proc/self/fd")) <= files + tiny.ROWS)
        for connection in connections:
            said = tiny.read_rest(connection)
            assert "data: {" in said
            assert "[DONE]" not in said


def test_bodies_on_their_way_are_limited_and_refused_at_the_end(model, engine):
    def slow_body():
        yield b'{"model": "base", '
        late.wait(30)
        yield b'"prompt": "the sea"}'

    late, kind = threading.Event(), {"Content-Type": "application/json"}
    with (
        tiny.server(model, engine, limits=Limits(open=1)) as (service, address),
        ThreadPoolExecutor() as threads,
    ):
        post = functools.partial(httpx2.post, f"{address}/v1/completions", headers=kind)
        first = threads.submit(post, content=slow_body())
        tiny.until(lambda: service.reading == 1)
        second = post(content=json.dumps(BODY))
        service.draining = True
        late.set()
        assert second.status_code == 429
        assert "1 bodies are on their way" in second.json()["error"]["message"]
        assert first.result().status_code == 503
        assert "is being shut down" in first.result().json()["error"]["message"]
        assert service.reading == service.open == 0


def test_at_the_end_no_more_is_taken_and_what_is_open_is_finished(model, engine):
    with ThreadPoolExecutor() as threads:
        with tiny.server(model, engine) as (service, address), tiny.paced(engine):
            api = client(address)
            text = threads.submit(say, api)
            tiny.until(lambda: engine.waiting == 1)
            service.draining = True
            with pytest.raises(openai.InternalServerError, match="is being shut down") as error:
                say(api)
            assert error.value.status_code == 503
            with pytest.raises(openai.InternalServerError):
                api.post("/load_lora_adapter", cast_to=object, body={})
            health = httpx2.get(f"{address}/health")
            assert (health.status_code, health.json()) == (503, {"status": "draining"})
        assert text.result().choices[0].finish_reason in {"stop", "length"}


def test_what_is_not_finished_in_time_at_the_end_is_told_so(model, engine):
    with ThreadPoolExecutor() as threads, tiny.paced(engine) as gate:
        with tiny.server(model, engine, drain_seconds=0.1) as (_, address):
            api = client(address)
            texts = [threads.submit(lambda: list(say(api, stream=True))), threads.submit(say, api)]
            tiny.until(lambda: engine.waiting == 2)
            gate.release()
            tiny.until(lambda: engine.running == 2)
            threads.submit(lambda: (time.sleep(0.5), gate.release()))  # cancelling takes a step
        for text in texts:
            with pytest.raises(openai.APIError, match="is being shut down"):
                text.result()


def test_a_second_signal_ends_what_the_first_lets_go_on(model, engine):
    service = Service(model, engine, name="base")

    def ask(address, gate):
        gate.release(3)  # a token may be half a character
        stream = iter(say(client(address), stream=True))
        next(stream)
        os.kill(os.getpid(), signal.SIGTERM)
        tiny.until(lambda: service.draining)
        time.sleep(0.3)
        assert service.open == 1  # it may end in peace
        os.kill(os.getpid(), signal.SIGINT)
        threads.submit(lambda: [(time.sleep(0.1), gate.release()) for _ in range(10)])
        with pytest.raises(openai.APIError, match="is being shut down"):
            list(stream)

    async def run(gate):
        asked = []
        start = lambda address: asked.append(threads.submit(ask, address, gate))
        async with service, asyncio.timeout(50):
            await serve(service, listen("127.0.0.1", 0), drain_seconds=100, on_start=start)
        return asked[0]

    with ThreadPoolExecutor() as threads, tiny.paced(engine) as gate:
        asyncio.run(run(gate)).result()
    engine.run()


def test_an_engine_that_breaks_down_ends_the_server_and_tells_all_clients(model, engine):
    def break_down():
        raise FloatingPointError("out of memory, say")

    with ThreadPoolExecutor() as threads, contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises(RuntimeError, match="has broken down"))
        _, address = stack.enter_context(tiny.server(model, engine))
        with tiny.paced(engine):
            text = threads.submit(say, client(address))
            tiny.until(lambda: engine.waiting == 1)
            engine.step = break_down
            with pytest.raises(openai.InternalServerError, match="out of memory, say"):
                text.result()
    engine.run()  # what it was asked for


def test_a_server_that_ends_by_itself_says_why(model, engine, monkeypatch):
    async def break_down(self):
        raise OSError("no memory for sockets, say")

    async def run():
        async with Service(model, engine, name="base") as service, asyncio.timeout(20):
            await serve(service, listen("127.0.0.1", 0))

    monkeypatch.setattr(uvicorn.Server, "main_loop", break_down)
    with pytest.raises(OSError, match="no memory for sockets, say"):
        asyncio.run(run())


def test_other_machines_need_a_token():
    with pytest.raises(ValueError, match=r"'0\.0\.0\.0' is reached from other machines"):
        listen("0.0.0.0", 0)
    with pytest.raises(ValueError, match="8 or more printable ASCII"):
        listen("127.0.0.1", 0, "short")
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1, port {port}: Address"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("limit", [{"open": 0}, {"seconds": 0.0}, {"adapters": -1}])
def test_a_limit_that_lets_nothing_through_is_refused(limit):
    with pytest.raises(ValueError, match="nothing could be served"):
        Limits(**limit)


def test_a_token_does_not_wait_for_the_receipt_of_the_last_one():
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
