"""Names of repositories: the local cache first, then the hub, then a clear word."""

import shutil
from pathlib import Path

import huggingface_hub
import jax
import numpy as np
import pytest
from huggingface_hub import errors

from lora_jax import hub

FIXTURES = Path(__file__).parent.parent / "fixtures"
LORA = FIXTURES / "peft" / "lora"


@pytest.fixture
def hub_calls(monkeypatch):
    """Replaces the client: `answers[offline]` is a directory or an error; calls are recorded."""
    answers, calls = {}, []

    def snapshot_download(name, *, revision, allow_patterns, local_files_only):
        calls.append((name, revision, local_files_only))
        assert not any(pattern.endswith(".bin") for pattern in allow_patterns)
        answer = answers[local_files_only]
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return answers, calls


def missing(kind):
    """An error as the client raises it, made without its HTTP response."""
    return kind.__new__(kind)


def test_a_cached_model_is_read_without_the_network(hub_calls):
    answers, calls = hub_calls
    answers[True] = FIXTURES / "bert"
    assert hub.load_model("org/tiny", revision="v1").config.layers == 3
    assert calls == [("org/tiny", "v1", True)]


def test_a_model_that_is_not_cached_is_downloaded(hub_calls):
    answers, calls = hub_calls
    answers[True] = errors.LocalEntryNotFoundError("not cached")
    answers[False] = FIXTURES / "roberta"
    assert hub.load_model("org/tiny").config.model_type == "roberta"
    assert [offline for *_, offline in calls] == [True, False]


def test_a_model_that_is_half_cached_is_downloaded(hub_calls, tmp_path):
    answers, calls = hub_calls
    shutil.copy(FIXTURES / "bert" / "config.json", tmp_path)
    answers |= {True: tmp_path, False: FIXTURES / "bert"}
    hub.load_model("org/tiny")
    assert len(calls) == 2


def test_a_cached_model_without_a_tokenizer_is_read_when_the_hub_cannot_be_reached(hub_calls):
    answers, calls = hub_calls
    answers |= {True: FIXTURES / "gpt2", False: ConnectionError("unreachable")}
    assert not (FIXTURES / "gpt2" / "tokenizer.json").exists()
    assert hub.load_model("org/tiny").config.model_type == "gpt2"
    assert len(calls) == 2


@pytest.mark.parametrize(
    "error",
    [ConnectionError("unreachable"), errors.LocalEntryNotFoundError("offline")],
    ids=["network", "offline"],
)
def test_without_network_and_cache_the_way_out_is_named(hub_calls, error):
    answers, _ = hub_calls
    answers |= {True: errors.LocalEntryNotFoundError("not cached"), False: error}
    with pytest.raises(FileNotFoundError, match=r"not in the local cache.*hf download org/tiny"):
        hub.load_model("org/tiny")


def test_an_unknown_repository_is_neither_here_nor_there(hub_calls):
    answers, _ = hub_calls
    answers |= {
        True: errors.LocalEntryNotFoundError("not cached"),
        False: missing(errors.RepositoryNotFoundError),
    }
    with pytest.raises(FileNotFoundError, match="no repository 'org/tiny' on the Hugging Face hub"):
        hub.load_model("org/tiny")


@pytest.mark.parametrize("path", ["./tiny", "/nowhere/tiny", "a/b/c", "~/no-such-model"])
def test_what_looks_like_a_path_is_never_looked_up(hub_calls, path):
    with pytest.raises(FileNotFoundError, match="no directory"):
        hub.load_model(path)
    assert not hub_calls[1]


def test_offline_mode_of_the_real_client_is_obeyed(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="the hub cannot be reached"):
        hub.load_model("org/tiny")


def test_an_adapter_is_read_from_the_cache_and_else_downloaded(hub_calls):
    answers, calls = hub_calls
    model = hub.load_model(FIXTURES / "llama")
    ids = np.array([[5, 6, 7]])
    answers |= {True: errors.LocalEntryNotFoundError("not cached"), False: LORA}
    _, downloaded = hub.lift_peft("org/adapter", model.apply, model.params, ids)
    answers[True] = LORA
    calls.clear()
    _, cached = hub.lift_peft("org/adapter", model.apply, model.params, ids)
    assert {offline for *_, offline in calls} == {True}
    assert all(map(np.array_equal, jax.tree.leaves(cached), jax.tree.leaves(downloaded)))


def test_an_adapter_that_cannot_be_had_is_a_clear_word(hub_calls):
    answers, _ = hub_calls
    answers |= {True: errors.LocalEntryNotFoundError("not cached"), False: ConnectionError("no")}
    with pytest.raises(FileNotFoundError, match=r"not in the local cache.*hf download org/adapter"):
        hub.find_adapter("org/adapter")
    with pytest.raises(FileNotFoundError, match="no directory"):
        hub.find_adapter("./org/adapter")
