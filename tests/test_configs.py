"""Every config of the folder: it can be read, its docstring has its command, and its data loads."""

import importlib
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from experiments import finetune, finetune_text
from tests.experiments.command import run

ROOT = Path(__file__).parent.parent
MODULES = {
    path.stem: importlib.import_module(f"configs.{path.stem}")
    for path in sorted((ROOT / "configs").glob("*.py"))
}
CONFIGS = [name for name, module in MODULES.items() if hasattr(module, "get_config")]

# Records to train on and to test on, as published or as our split of what is published makes them.
COUNTS = {
    ("glue", "cola"): ("8,551", "1,043"),
    ("glue", "mrpc"): ("3,668", "408"),
    ("glue", "rte"): ("2,490", "277"),
    ("glue", "sst2"): ("67,349", "872"),
    ("glue", "stsb"): ("5,749", "1,500"),
    ("cocohd", "relevancy"): ("640", "200"),
    ("cocohd", "inc_dec"): ("453", "142"),
    ("stories", "e2e_nlg"): ("42,061", "630"),
    ("stories", "gsm8k"): ("7,473", "1,319"),
    ("stories", "medmcqa"): ("3,331", "852"),
    ("stories", "sroie"): ("76", "24"),
    ("sroie", ""): ("3,926", "1,318"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_can_be_read_and_says_how_it_is_run(name):
    module = MODULES[name]
    config = module.get_config()
    assert isinstance(config, ConfigDict)
    assert config.is_locked
    experiment = re.search(r"python -m experiments\.(\w+)", module.__doc__)
    assert (ROOT / "experiments" / f"{experiment[1]}.py").exists()
    assert f"--config=configs/{name}.py" in module.__doc__


@pytest.mark.needs_data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), COUNTS)
def test_the_plan_of_every_run_counts_its_records(
    name, task, data_dir, minilm_dir, monkeypatch, capsys
):
    monkeypatch.setenv("LORA_JAX_DATA", str(data_dir))
    config = MODULES[name].get_config(*filter(None, [task]))
    if "train_examples" in config:
        config.train_examples = 64  # what is encoded; all are counted
    experiment = finetune_text if name == "stories" else finetune
    experiment.main(config, None)
    train, test = COUNTS[name, task]
    assert f"{train} training, {test} test examples" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "config", "message"),
    [
        ("finetune", "glue.py:colla", "unknown run 'colla'; nearest: 'cola'"),
        ("finetune_text", "stories.py:gsm8", "unknown run 'gsm8'; nearest: 'gsm8k'"),
    ],
)
def test_a_wrong_run_is_told_in_one_sentence(experiment, config, message):
    said = run(experiment, f"--config=configs/{config}", "--dry_run", succeeds=False)
    assert message in said
    assert "Traceback" not in said
