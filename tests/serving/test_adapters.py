"""Adapters that come and go while the server runs, and files that it does not read."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import openai
import pytest
from safetensors.numpy import load_file, save_file

import lora_jax as lora
from lora_jax import hub
from lora_jax.serving import AdapterRoot, Limits
from tests.serving import tiny
from tests.serving.test_api import client
from tests.serving.tiny import WEIGHTS, Wanted


@pytest.fixture(scope="module")
def own_root(root, tmp_path_factory):
    """A root with good adapters, bad ones, and links that lead out."""
    top = tmp_path_factory.mktemp("top")
    directory = top / "root"
    shutil.copytree(root, directory)
    shutil.copytree(root / "a0", directory / "deep" / "er" / "a0")
    shutil.copytree(root / "a1", top / "outside")
    (directory / "link_out").symlink_to(top / "outside")
    (directory / "link_in").symlink_to(directory / "a2")
    (directory / "link_round").symlink_to(directory / "link_round")
    for name in ("file_link_out", "no_weights", "pickle", "torn", "no_config", "huge", "wrong"):
        shutil.copytree(root / "a1", directory / name)
    (directory / "file_link_out" / WEIGHTS).unlink()
    (directory / "file_link_out" / WEIGHTS).symlink_to(top / "outside" / WEIGHTS)
    (directory / "no_weights" / WEIGHTS).unlink()
    (directory / "pickle" / WEIGHTS).rename(directory / "pickle" / "adapter_model.bin")
    torn = directory / "torn" / WEIGHTS
    torn.write_bytes(torn.read_bytes()[:-7])
    (directory / "no_config" / "adapter_config.json").unlink()
    with (directory / "huge" / WEIGHTS).open("ab") as file:
        file.truncate(2**20 + 1)
    tensors = load_file(directory / "wrong" / WEIGHTS)
    save_file({f"x.{k}": v for k, v in tensors.items()}, directory / "wrong" / WEIGHTS)
    tensors = load_file(directory / "a1" / WEIGHTS)
    shutil.copytree(root / "a1", directory / "nan")
    save_file({k: np.full_like(v, np.nan) for k, v in tensors.items()}, directory / "nan" / WEIGHTS)
    for name, value in {"r": "two", "peft_type": "NEW", "target_modules": 7}.items():
        shutil.copytree(root / "a1", directory / f"bad_{name}")
        file = directory / f"bad_{name}" / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    return directory


@pytest.fixture(scope="module")
def served(model, engine, own_root):
    limits = Limits(adapters=4)
    with (
        tiny.server(model, engine, own_root, limits=limits, names=("a0",)) as (service, address),
        httpx2.Client(base_url=f"{address}/v1", timeout=60) as http,
    ):
        yield service, client(address), http


def load(http, name, path, **more):
    return http.post("/load_lora_adapter", json={"lora_name": name, "lora_path": path} | more)


def unload(http, name):
    return http.post("/unload_lora_adapter", json={"lora_name": name})


def say(api, model, **options):
    options = {"prompt": "the sea", "temperature": 0, "max_tokens": 12} | options
    return api.completions.create(model=model, **options).choices[0].text


def test_an_adapter_is_loaded_used_replaced_and_unloaded(served, own_root, offline):
    _, api, http = served
    wanted = [Wanted(name, "the sea") for name in ("a1", "a2")]
    first, second = (text.text for text in offline.texts(wanted, **tiny.GREEDY))
    assert first != second
    card = load(http, "new", "a1").json()
    assert (card["id"], card["root"], card["parent"]) == ("new", "a1", "base")
    assert say(api, "new") == first
    assert "there is a model 'new' already" in load(http, "new", "a2").json()["error"]["message"]
    assert say(api, "new") == first
    assert load(http, "new", str(own_root / "a2"), load_inplace=True).status_code == 200
    assert say(api, "new") == second
    assert [one.id for one in api.models.list()] == ["base", "a0", "new"]
    assert unload(http, "new").json() == {"id": "new", "object": "model", "deleted": True}
    with pytest.raises(openai.NotFoundError, match="no model 'new'"):
        say(api, "new")
    assert unload(http, "new").status_code == 404
    assert "cannot be unloaded" in unload(http, "base").json()["error"]["message"]


def test_links_and_deeper_directories_under_the_root_are_read(served):
    _, _, http = served
    for path in ("deep/er/a0", "link_in", "./a1/../a1"):
        assert load(http, "x", path).status_code == 200, path
        assert unload(http, "x").status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("../outside", 403, "leads out of the root"),
        ("a0/../../outside", 403, "leads out of the root"),
        ("/etc", 403, "leads out of the root"),
        ("link_out", 403, "leads out of the root"),
        ("file_link_out", 403, "leads out of the root"),
        ("~", 404, "no directory '~' under the root of adapters, which has 'a0', 'a1'"),
        ("hub/name", 404, "no directory 'hub/name'"),
        ("a0/" + WEIGHTS, 404, "no directory"),
        ("a\0", 400, "is no path"),
        ("a" * 5000, 400, "is no path"),
        ("link_round", 400, "is no path"),
        ("", 404, "'' has no adapter_config.json"),
        ("no_weights", 404, "has no adapter_model.safetensors"),
        ("pickle", 404, "has no adapter_model.safetensors"),
        ("no_config", 404, "has no adapter_config.json"),
        ("huge", 400, "is 1048577 bytes, and the limit 1048576"),
        ("torn", 400, "is not a whole safetensors file"),
        ("wrong", 400, "is not for this model"),
        ("nan", 400, "holds NaN or infinity"),
        ("bad_r", 400, "ROOT/bad_r/adapter_config.json has r = 'two'; it must be a whole number"),
        ("bad_peft_type", 400, "NEW"),
        ("bad_target_modules", 400, "target_modules = 7; it must be a text or a list of texts"),
    ],
)
def test_what_is_not_read_is_told(served, own_root, path, status, said):
    service, _, http = served
    response = load(http, "bad", path)
    assert response.status_code == status, response.text
    message = response.json()["error"]["message"]
    assert said in message
    assert str(own_root) not in message  # where the root lies is nobody's business
    assert "bad" not in service.catalog.cards
    assert "bad" not in service.engine.pool


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda own, _: own.rename(own.with_name("moved")), "cannot be read: No such file"),
        (lambda own, out: (shutil.rmtree(own), own.symlink_to(out)), "cannot be read: "),
        (
            lambda own, out: replace(own / WEIGHTS, lambda f: f.symlink_to(out / WEIGHTS)),
            "cannot be",
        ),
        (lambda own, _: replace(own / WEIGHTS, os.mkfifo), "cannot be read: it is no file"),
        (lambda own, _: os.truncate(own / WEIGHTS, 2**20 + 1), "is 1048577 bytes, and the limit"),
    ],
    ids=["moved", "directory", "file", "pipe", "larger"],
)
def test_what_changes_after_it_was_looked_at_is_not_read(
    served, own_root, tmp_path, monkeypatch, change, said
):
    service, _, http = served
    shutil.copytree(own_root / "a1", tmp_path / "outside")
    own = own_root / "changing"
    shutil.copytree(own_root / "a1", own)
    find = AdapterRoot._find

    def find_and_change(self, path):
        found = find(self, path)
        change(own, tmp_path / "outside")
        return found

    monkeypatch.setattr(AdapterRoot, "_find", find_and_change)
    response = load(http, "bad", "changing")
    assert response.status_code == 400, response.text
    assert said in response.json()["error"]["message"]
    assert "bad" not in service.catalog.cards
    for left in (own, own.with_name("moved")):
        if left.is_symlink():
            left.unlink()
        elif left.is_dir():
            shutil.rmtree(left)


def replace(file, make):
    file.unlink()
    make(file)


def test_an_adapter_must_fit_the_pool(served, model, own_root):
    _, _, http = served
    larger = tiny.lift(model, method=lora.LoRA(tiny.RANK + 1))
    hub.save_peft(own_root / "larger", larger, tiny.blank(larger, model))
    other = tiny.lift(model, method=lora.IA3(), targets=("k_proj", "v_proj"))
    hub.save_peft(own_root / "ia3", other, tiny.blank(other, model))
    for name, said in {"larger": "has rank 3", "ia3": "slots hold LoRA and DoRA"}.items():
        response = load(http, name, name)
        assert response.status_code == 400
        assert said in response.json()["error"]["message"]


@pytest.mark.parametrize("name", ["", "a b", "../a", "a/", "é", "a" * 129, "base", "\n"])
def test_names_are_plain_and_not_taken(served, name):
    _, _, http = served
    response = load(http, name, "a1")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "lora_name"


def test_only_so_many_adapters_are_loaded(served):
    _, _, http = served
    for i in range(3):
        assert load(http, f"more/{i}", "a1").status_code == 200
    response = load(http, "one_too_many", "a1")
    assert response.status_code == 400
    assert "4 adapters are loaded" in response.json()["error"]["message"]
    assert load(http, "more/0", "a2", load_inplace=True).status_code == 200
    for i in range(3):
        unload(http, f"more/{i}")


def test_a_server_without_a_root_loads_nothing(model, engine):
    with tiny.server(model, engine) as (_, address), httpx2.Client(base_url=address) as http:
        body = {"lora_name": "a", "lora_path": "/"}
        response = http.post("/v1/load_lora_adapter", json=body)
        assert response.status_code == 400
        assert "no root of adapters" in response.json()["error"]["message"]


def test_a_text_that_is_being_written_outlives_its_adapter(served, offline):
    service, api, http = served
    (text,) = offline.texts([Wanted("a3", "the sea")], **tiny.GREEDY)
    load(http, "leaving", "a3")
    options = {"prompt": "the sea", "temperature": 0, "max_tokens": 12, "stream": True}
    with ThreadPoolExecutor() as threads, tiny.paced(service.engine) as gate:
        first = threads.submit(lambda: list(api.completions.create(model="leaving", **options)))
        tiny.until(lambda: service.engine.waiting)
        gate.release()  # the text is begun
        tiny.until(lambda: service.engine.running)
        fill = [threads.submit(say, api, "base") for _ in range(tiny.ROWS)]
        late = threads.submit(say, api, "leaving")  # waits behind these for a row
        tiny.until(lambda: service.open == tiny.ROWS + 2)
        assert unload(http, "leaving").status_code == 200
        with pytest.raises(openai.NotFoundError, match="no model 'leaving'"):
            say(api, "leaving")
    assert "".join(event.choices[0].text for event in first.result()) == text.text
    assert len({one.result() for one in fill}) == 1
    with pytest.raises(openai.NotFoundError, match="unloaded while the request waited"):
        late.result()
