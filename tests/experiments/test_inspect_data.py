"""What inspect_data prints and writes, on the real files of GSM8K and a real tokenizer."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from configs.inspect_data import get_config
from experiments import inspect_data

pytestmark = pytest.mark.needs_data


@pytest.fixture
def config(data_dir, monkeypatch):
    monkeypatch.setenv("LORA_JAX_DATA", str(data_dir))
    config = get_config("gsm8k")
    config.model = str(data_dir / "stories260k" / "stories260K.bin")
    config.records = 40
    return config


def test_it_counts_what_fits_and_what_does_not(config, tmp_path, capsys):
    config.encoding.length = 420
    inspect_data.main(config, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["examples"] + len(found["skipped"]) == 40
    assert 0 < len(found["skipped"]) < 40
    assert found["longest"] <= 420
    assert found["lost"] == []
    assert found["padded"] < found["packed"] <= 1
    said = capsys.readouterr().out
    assert "0 examples lost their answer" in said
    assert "left out: " in said
    assert "Natalia sold clips to 48 of her friends" in said


def test_a_histogram_counts_every_length_once(config):
    lengths = np.array([10, 11, 11, 40, 200])
    lines = inspect_data.histogram(lengths)
    assert sum(int(line.split()[-1]) for line in lines) == 5
    assert inspect_data.histogram(np.array([7, 7]))[0].endswith("█ 2")


def test_trained_tokens_are_coloured(config, data_dir):
    from lora_jax.hub import load_model

    tokenizer = load_model(config.model).tokenizer
    ids = tokenizer.encode(["Why? So."]).ids[0]
    trained = np.array([0] * (len(ids) - 3) + [1] * 3)
    text = inspect_data.spell({"ids": ids, "trained": trained}, tokenizer)
    file = io.StringIO()
    Console(file=file, force_terminal=True, color_system="standard").print(text)
    assert "\x1b[1;32m" in file.getvalue()
    green = [text.plain[s.start : s.end] for s in text.spans if "green" in str(s.style)]
    assert green == [tokenizer.decode(ids[-3:], special=True)]


def test_the_options_of_any_task_can_be_set(data_dir):
    config = get_config("sroie")
    config.task.options.show = "text"
    config.task.options.directory = str(data_dir / "sroie")
    assert config.task.options.bad_rows == "raise"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("split", "dev", "split is 'dev', not 'train'"),
        ("model", "", "give --config.model"),
    ],
)
def test_bad_settings_are_refused(config, field, value, message):
    config[field] = value
    with pytest.raises(ValueError, match=message):
        inspect_data.main(config, None)


def test_no_record_that_fits_is_an_error(config):
    config.encoding.length = 3
    with pytest.raises(ValueError, match="no record is left; the first was refused"):
        inspect_data.main(config, None)
