"""The benchmark of the server: its table, and that HTTP and the engine give the same texts."""

import math

import pytest

from lora_jax.evaluation import TextRequest
from lora_jax.serving import AdapterRoot, Service, serving
from scripts import bench_server
from scripts.bench_server import ENGINE, STREAMED, WHOLE, Shape
from scripts.bench_server_clients import Load, Text, ask_engine, ask_server

TINY = Shape(dim=64, layers=2, vocabulary=300, rows=2, adapters=2, prompt=4, new=6)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("server")
    bench_server.save(TINY, directory)
    return directory


def test_rates_are_of_rounds_and_times_of_all_texts():
    text, late = Text("ab", 0.1, 0.02), Text("ab", 0.3, 0.04)
    loads = {
        ENGINE: [Load([text], 1.0), Load([text], 2.0)],
        STREAMED: [Load([text, late], 2.0), Load([late], 8.0)],
        WHOLE: [Load([Text("ab", 0.1, math.nan)], 1.0)] * 2,
    }
    engine, streamed, whole = bench_server.rows(4, loads, tokens=30)
    assert engine == "| 4 | engine | 20 | 1.00 | 100.0 | 100.0 | 20.0 | 20.0 |"
    assert streamed == "| 4 | HTTP, streamed | 6 | 0.38 | 300.0 | 300.0 | 40.0 | 40.0 |"
    assert whole == "| 4 | HTTP, whole | 30 | 1.50 |  |  |  |  |"


def test_other_texts_than_at_first_stop_the_benchmark():
    loads = iter([Load([Text("ab", 0.1, 0.1)], 1.0), Load([Text("ac", 0.1, 0.1)], 1.0)])
    with pytest.raises(RuntimeError, match="1 of 1 texts are others"):
        bench_server.measure({ENGINE: lambda: next(loads)}, rounds=1)


def test_the_server_writes_what_the_engine_writes_and_sends_every_token(directory):
    engine, model = bench_server.make_engine(TINY, directory)
    requests = bench_server.make_requests(TINY, 5)
    direct = ask_engine(engine, model.tokenizer, requests, connections=3)
    assert {len(text.text) for text in direct.texts} == {TINY.new}  # a letter for each token
    assert len({text.text for text in direct.texts}) > 1
    for name in bench_server.adapter_names(TINY):
        engine.pool.remove(name)
    root = AdapterRoot(directory / "adapters", file_bytes=2**20)
    service = Service(model, engine, name="base", root=root)
    with serving(service, adapters=bench_server.adapter_names(TINY)) as address:
        host = address.partition("//")[2]
        streamed = ask_server(host, requests, 3, stream=True)
        whole = ask_server(host, requests, 3, stream=False)
        unknown = [TextRequest(ids=(1,), adapter="no such", max_new_tokens=1)]
        with pytest.raises(RuntimeError, match="404"):
            ask_server(host, unknown, 1, stream=False)
    for load in (streamed, whole):
        assert [text.text for text in load.texts] == [text.text for text in direct.texts]
    assert all(text.first > 0 and text.each > 0 for text in (*direct.texts, *streamed.texts))


@pytest.mark.slow
def test_the_command_serves_the_same_texts(directory):
    engine, model = bench_server.make_engine(TINY, directory)
    requests = bench_server.make_requests(TINY, 3)
    with bench_server.server(TINY, directory) as address:
        ways = {
            ENGINE: lambda: ask_engine(engine, model.tokenizer, requests, 2),
            STREAMED: lambda: ask_server(address, requests, 2, stream=True),
        }
        loads, texts = bench_server.measure(ways, rounds=1)
    assert len(texts) == 3
    assert [len(load) for load in loads.values()] == [1, 1]
