"""One base, four adapters and one engine for all tests of the server."""

import socket

import pytest

from lora_jax import hub
from lora_jax.evaluation import TextRequest
from lora_jax.serving import listen
from tests.serving import tiny


@pytest.fixture(scope="session", autouse=True)
def _closed_clients():
    yield
    for client in tiny.CLIENTS:
        client.close()


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory):
    return tiny.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def model(base_dir):
    return hub.load_model(base_dir)


@pytest.fixture(scope="session")
def root(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("adapters")
    tiny.make_adapters(model, directory, tiny.NAMES)
    return directory


@pytest.fixture(scope="session")
def engine(model):
    engine = tiny.make_engine(model)
    engine.submit(TextRequest(ids=(5,), max_new_tokens=2))
    engine.run()  # compiles, so that no request takes too long for that
    return engine


@pytest.fixture(scope="session")
def long_model(model):
    return tiny.make_long(model)


@pytest.fixture(scope="session")
def long_engine(long_model):
    return tiny.make_engine(long_model, room=tiny.LONG_ROOM)


@pytest.fixture(scope="session")
def longest(long_model, long_engine):
    return tiny.find_longest(long_model, long_engine)


@pytest.fixture
def small_buffers(monkeypatch):
    """Lets the system hold little of what clients do not read; connections inherit it."""

    def small(*args):
        listener = listen(*args)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024)
        return listener

    monkeypatch.setattr("lora_jax.serving.server.listen", small)


@pytest.fixture(scope="session")
def offline(model, root):
    return tiny.Offline(model, root, tiny.NAMES)
