"""A thousand requests of every kind at once: right answers, clear errors, and nothing left over."""

import asyncio
import collections
import contextlib
import gc
import json
import os
import threading
from pathlib import Path

import httpx2
import jax
import numpy as np
import pytest

from lora_jax.serving import Limits
from tests.serving import tiny
from tests.serving.tiny import NEW, Wanted

REQUESTS, AT_A_TIME = 1000, 24
STALLED = 6  # more, whose readers read nothing until all others have been answered
ADAPTERS = [f"s{i}" for i in range(32)]
FLEETING = ["f0", "f1"]  # that are loaded and unloaded all the time
SETTINGS = (tiny.GREEDY, tiny.DRAWN)
WORDS = tiny.TEXT.split()
BAD = (
    ("malformed", 400, "not JSON"),
    ("unknown adapter", 404, "no model 'nobody'"),
    ("oversized prompt", 400, "the longest is 16"),
    ("oversized body", 413, "bytes"),
    ("no such setting", 400, "temperature"),
)


class Asked:
    """A request, and what must come of it."""

    def __init__(self, number, rng):
        self.kind = rng.choice(
            ["whole", "stream", "slow", "leaves", "bad"], p=[0.4, 0.25, 0.05, 0.1, 0.2]
        )
        self.bad = BAD[number % len(BAD)]
        self.setting = number % len(SETTINGS)
        self.new = int(rng.integers(1, NEW + 1))
        name = str(rng.choice(["base", *ADAPTERS, *FLEETING]))
        prompt = " ".join(rng.choice(WORDS, rng.integers(1, 4)))
        self.wanted = Wanted(name, prompt, int(rng.integers(2**31)))
        self.text = None  # of NEW tokens; as many tokens of it are asked for as `new`

    @property
    def body(self):
        settings = SETTINGS[self.setting] | {"max_tokens": self.new, "seed": self.wanted.seed}
        body = {"model": self.wanted.model, "prompt": self.wanted.prompt, **settings}
        kind = self.bad[0] if self.kind == "bad" else ""
        body |= {
            "unknown adapter": {"model": "nobody"},
            "oversized prompt": {"prompt": self.wanted.prompt * 20},
            "oversized body": {"prompt": "x" * 20_000},
            "no such setting": {"temperature": "hot"},
        }.get(kind, {})
        content = json.dumps(body | {"stream": self.kind in {"stream", "slow", "leaves"}})
        return content[:-1] if kind == "malformed" else content


def make_requests(offline):
    rng = np.random.default_rng(0)
    asked = [Asked(i, rng) for i in range(REQUESTS)]
    for i, setting in enumerate(SETTINGS):
        group = [one for one in asked if one.setting == i]
        made = offline.texts([one.wanted for one in group], **setting)
        for one, completion in zip(group, made, strict=True):
            tokens = completion.tokens[: one.new]
            one.text = offline.model.tokenizer.decode(tokens)
            one.end = (
                "stop" if completion.finished and one.new >= len(completion.tokens) else "length"
            )
    return asked


async def ask(http, one, seen):
    """Sends a request and checks what comes."""
    post = {"content": one.body, "headers": {"Content-Type": "application/json"}}
    async with http.stream("POST", "/v1/completions", **post) as response:
        if one.kind == "bad":
            _, status, said = one.bad
            error = json.loads(await response.aread())["error"]
            assert (response.status_code, said in error["message"]) == (status, True), error
        elif response.status_code != 200:
            error = json.loads(await response.aread())["error"]
            assert one.wanted.model in FLEETING, error
            assert error["code"] == "model_not_found"
            seen["gone"] += 1
        elif one.kind == "leaves":
            async for _ in response.aiter_lines():
                break
        else:
            found = await read(response, one)
            assert found == (one.text, one.end), one.wanted
    seen[one.kind] += 1


async def read(response, one):
    """The text of a response, and why it ends."""
    if one.kind == "whole":
        (choice,) = json.loads(await response.aread())["choices"]
        return choice["text"], choice["finish_reason"]
    text, end = "", None
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            (choice,) = json.loads(line[6:])["choices"]
            text, end = text + choice["text"], choice["finish_reason"]
        if one.kind == "slow":
            await asyncio.sleep(0.02)
    assert line == "" or line == "data: [DONE]"
    return text, end


async def come_and_go(http, seen):
    """Unloads and loads the fleeting adapters."""
    while True:
        for name in FLEETING:
            answer = await http.post("/v1/unload_lora_adapter", json={"lora_name": name})
            assert answer.status_code == 200
            await asyncio.sleep(0.05)
            body = {"lora_name": name, "lora_path": name}
            answer = await http.post("/v1/load_lora_adapter", json=body)
            assert answer.status_code == 200, answer.text
            seen["loads"] += 1
            await asyncio.sleep(0.1)


async def read_late(address, longest, others, seen):
    """Asks for a long stream, reads nothing of it until the others are done, and then all."""
    body, text = longest
    connection = tiny.open_connection(address, body | {"stream": True})
    await others.wait()
    lines = (await asyncio.to_thread(tiny.read_rest, connection)).splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert "".join(event["choices"][0]["text"] for event in events) == text
    assert lines.count("data: [DONE]") == 1
    seen["stalled"] += 1


async def run(service, address, requests, longest):
    seen = collections.Counter()
    limits = httpx2.Limits(max_connections=AT_A_TIME + 2)
    async with httpx2.AsyncClient(base_url=address, limits=limits, timeout=60) as http:
        going = asyncio.create_task(come_and_go(http, seen))
        turn, others = asyncio.Semaphore(AT_A_TIME), asyncio.Event()
        stalled = [read_late(address, longest, others, seen) for _ in range(STALLED)]
        late = asyncio.gather(*stalled)

        async def one_of_many(one):
            async with turn:
                await ask(http, one, seen)

        await asyncio.gather(*map(one_of_many, requests))
        # Those who have read nothing hold no row, and have delayed nobody.
        while service.engine.running or service.engine.waiting or service.open > STALLED:
            await asyncio.sleep(0.02)
        assert service.open == STALLED
        others.set()
        await late
        going.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await going
        for name in FLEETING:  # whichever was between the two
            body = {"lora_name": name, "lora_path": name, "load_inplace": True}
            assert (await http.post("/v1/load_lora_adapter", json=body)).status_code == 200
    await asyncio.sleep(0.3)  # for the server's ends of the connections
    return seen


def held():
    """What a process holds."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "arrays": len(jax.live_arrays()),
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
        "MiB": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
    }


@pytest.mark.slow
def test_a_thousand_requests_are_answered_rightly_and_leave_nothing_behind(
    long_model, long_engine, longest, small_buffers, tmp_path
):
    model, engine = long_model, long_engine
    names = [*ADAPTERS, *FLEETING]
    tiny.make_adapters(model, tmp_path, names)
    requests = make_requests(tiny.Offline(model, tmp_path, names))
    limits = Limits(
        adapters=len(names),
        body_bytes=10_000,
        open=2 * AT_A_TIME + STALLED,
        new_tokens=tiny.LONG_ROOM,
    )
    with tiny.server(model, engine, tmp_path, names=names, limits=limits) as (service, address):
        seen = asyncio.run(run(service, address, requests[:200], longest))
        tiny.until(lambda: service.open == engine.running == engine.waiting == 0)
        before = held()
        seen += asyncio.run(run(service, address, requests[200:], longest))
        tiny.until(lambda: service.open == engine.running == engine.waiting == 0)
        after = held()
        assert service._thread._readers == {}
        assert service.catalog.cards.keys() == {"base", *names}
    assert sum(seen[kind] for kind in ("whole", "stream", "slow", "leaves", "bad")) == REQUESTS
    assert seen["stalled"] == 2 * STALLED
    assert min(seen["slow"], seen["leaves"], seen["bad"], seen["loads"]) > 10, seen
    assert after["arrays"] == before["arrays"]
    assert after["threads"] <= before["threads"]
    assert after["files"] <= before["files"]
    assert after["MiB"] < before["MiB"] + 20, (before, after)
