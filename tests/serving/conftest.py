"""One base, four adapters and one engine for all tests of the server."""

import pytest

from lora_jax import hub
from tests.serving import tiny

NAMES = ("a0", "a1", "a2", "a3")


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory):
    return tiny.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def model(base_dir):
    return hub.load_model(base_dir)


@pytest.fixture(scope="session")
def root(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("adapters")
    tiny.make_adapters(model, directory, NAMES)
    return directory


@pytest.fixture(scope="session")
def engine(model):
    return tiny.make_engine(model)


@pytest.fixture(scope="session")
def offline(model, root):
    return tiny.Offline(model, root, NAMES)
