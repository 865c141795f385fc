"""The server as a user starts it, and as what runs it ends it."""

import json
import shutil
import signal
import subprocess
import sys
import threading

import openai
import pytest

from experiments import serve
from tests.experiments.command import ROOT, start
from tests.serving.test_api import client

FIXTURES = ROOT / "tests" / "fixtures"
LONG = {"model": "a1", "prompt": "the sea", "temperature": 0, "max_tokens": 800}


def config_of(base_dir, root, **fields):
    config = serve.defaults()
    config.model, config.adapters_root = str(base_dir), str(root)
    config.pool.rank = 2
    config.update(fields)
    return config


def ask_again_and_again(api):
    """Until the signal has come."""
    while True:
        api.completions.create(**LONG | {"max_tokens": 1})


def test_without_the_packages_of_a_server_it_says_how_to_get_them():
    lines = "import sys; sys.modules['starlette'] = None; import experiments.serve"
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "error: starlette is not installed: pip install -e '.[serve]'\n"


@pytest.mark.slow
def test_sigterm_lets_texts_end_and_a_second_one_does_not(base_dir, root, tmp_path):
    model = tmp_path / "long"
    shutil.copytree(base_dir, model)
    fields = json.loads((model / "config.json").read_text())
    fields |= {"max_position_embeddings": 4096, "eos_token_id": None}  # its texts do not end
    (model / "config.json").write_text(json.dumps(fields))
    process = start(
        "serve",
        "--config=configs/serve.py",
        f"--config.model={model}",
        f"--config.adapters_root={root}",
        "--config.adapters=a0,a1",
        "--config.pool.rank=2",
        "--config.engine.room=2048",
        "--config.engine.prompt_lengths=(8,)",
        "--config.limits.new_tokens=2000",
        "--config.scan=True",
        "--config.port=0",
        f"--workdir={tmp_path / 'run'}",
    )
    killer = threading.Timer(120, process.kill)  # rather than to wait for ever
    killer.start()
    try:
        said = process.stdout.readline()
        assert said.startswith("long and 2 adapters at "), said
        api = client(said.split(" at ")[1].strip().removesuffix("/v1"))
        assert [one.id for one in api.models.list()] == ["long", "a0", "a1"]
        whole = api.completions.create(**LONG)
        assert whole.choices[0].finish_reason == "length"
        stream = iter(api.completions.create(**LONG, stream=True))
        pieces = [next(stream).choices[0].text]
        longer = iter(api.completions.create(**LONG | {"max_tokens": 2000}, stream=True))
        next(longer)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.InternalServerError, match="is being shut down") as error:
            ask_again_and_again(api)
        assert error.value.status_code == 503
        pieces += [event.choices[0].text for event in stream]
        assert "".join(pieces) == whole.choices[0].text
        process.send_signal(signal.SIGTERM)  # once more: do not wait for the longer one
        with pytest.raises(openai.APIError, match="is being shut down"):
            list(longer)
        rest = process.stdout.read()
        assert process.wait() == 0
        assert "served " in rest
    finally:
        killer.cancel()
        process.kill()
        process.communicate()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["counts"]["lora_jax_text_seconds_count"] >= 2
    assert results["config"]["adapters_root"] == str(root)


def test_the_plan_says_what_would_be_served(base_dir, root, monkeypatch, capsys):
    monkeypatch.setenv("LORA_JAX_TOKEN", "a secret of ours")
    config = config_of(base_dir, root, adapters=("*",))
    config.engine.update(room=32, prompt_lengths=(8,))
    serve.plan(config)
    said = capsys.readouterr().out
    for part in ("llama, ", "adapters: a0, a1, a2, a3", "8 texts at a time", "a token", "MiB"):
        assert part in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": ""}, "give --config.model"),
        ({"model": f"{FIXTURES}/t5"}, "a 't5' is no decoder"),
        ({"model": f"{FIXTURES}/llava"}, "a 'llava' is no decoder"),
        ({"adapters": ("a0", "b0")}, "adapter 'b0': no directory 'b0' under the root"),
        ({"adapters": ("../x",)}, "leads out of the root"),
        ({"adapters_root": "", "adapters": ("a0",)}, "no --config.adapters_root"),
        ({"adapters_root": "nowhere"}, "nowhere, is not a directory"),
        ({"host": "0.0.0.0"}, "set a token"),
        ({"token_file": "short.txt"}, "8 or more printable"),
        ({"limits.open": 0}, "nothing could be served"),
        ({"engine.room": 100}, "room = 100, but prompts have up to 256"),
        ({"engine.room": 512}, "the model has 64 positions"),
    ],
)
def test_what_cannot_be_served_is_refused(base_dir, root, tmp_path, monkeypatch, fields, message):
    monkeypatch.delenv("LORA_JAX_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("secret\nmore")
    config = config_of(base_dir, root)
    config.port = 0
    config.update_from_flattened_dict(fields)
    with pytest.raises(ValueError, match=message) as error:
        serve.main(config, None)
    assert "secret" not in str(error.value)
