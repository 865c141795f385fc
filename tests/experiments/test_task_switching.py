"""Switching between adapters of one base: exact where it must be, on small models from files."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import lora_jax as lora
from experiments import task_switching
from lora_jax import hub

FIXTURES = Path(__file__).parent.parent / "fixtures"


def adapter(directory, seed, rank=2):
    """A LoRA for the small Llama, with noise in both factors, in PEFT's files."""
    base = hub.load_model(FIXTURES / "llama")
    ids = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    lifted = lora.lift(base.apply, base.params, ids, method=lora.LoRA(rank), targets=("q_proj",))
    rng = np.random.default_rng(seed)
    noise = lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32)
    factors = jax.tree.map(noise, {site.path: dict(site.arrays) for site in lifted.sites})
    hub.save_peft(directory, lifted, factors, params=base.params)
    return str(directory)


def config_of(**fields):
    config = task_switching.defaults()
    config.model.path = str(FIXTURES / "llama")
    config.update({"length": 8, "cycles": 3, "rounds": 2, "rows": 5, **fields})
    return config


def test_the_base_comes_back_and_a_mixed_batch_equals_its_rows(tmp_path):
    folders = ",".join(adapter(tmp_path / f"seed{seed}", seed) for seed in range(3))
    task_switching.main(config_of(adapters=folders), tmp_path / "run")
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["adapters"] == ["seed0", "seed1", "seed2"]
    for exact in ("is_base_identical", "are_outputs_identical", "is_merge_repeatable"):
        assert found["restoration"][exact] is True
    drift = found["restoration"]["drift"]
    assert len(drift) == 3
    assert 0 < drift[-1] < 1e-5  # subtraction rounds: the control can fail where W is kept
    assert found["mixed"]["difference"] < 1e-5 * found["mixed"]["scale"]
    assert all(len(time["seconds"]) == 2 for time in found["switches"].values())
    assert found["interference"] == []
    assert "the base has the same bits" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_adapters_of_several_tasks_are_trained_together_each_with_its_own_head(
    tmp_path, monkeypatch
):
    folder = tmp_path / "data" / "glue" / "SST-2"
    folder.mkdir(parents=True)
    for part, count in (("train", 16), ("dev", 6)):
        lines = [f"{'a film ' * (1 + 2 * (i % 2))}{i}\t{i % 2}" for i in range(count)]
        text = "\n".join(["sentence\tlabel", *lines]) + "\n"
        (folder / f"{part}.tsv").write_text(text)
    monkeypatch.setenv("LORA_JAX_DATA", str(tmp_path / "data"))
    config = config_of(seeds=(0,), steps=2, batch_size=4, rounds=1, cycles=1, rows=3)
    config.update(evaluation_batch_size=6, evaluation_examples=6, kinds=("cat",), weights=(0.5,))
    config.model.path = str(FIXTURES / "bert")
    with config.unlocked():
        config.tasks.docstrings = ConfigDict({"train_per_topic": 2, "test_per_topic": 1})
        config.tasks.sst2 = ConfigDict()
    task_switching.main(config, tmp_path / "run")
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["adapters"] == ["docstrings", "sst2"]
    choices = ("its own adapter", "no adapter", "cat, weights 0.5")
    assert {(one["choice"], one["task"]) for one in found["interference"]} == {
        (choice, task) for choice in choices for task in ("docstrings", "sst2")
    }
    # Each has the classes of its own task, whatever the others have.
    for task, classes in (("docstrings", 12), ("sst2", 2)):
        head = np.load(tmp_path / "run" / "adapters" / f"{task}-seed0" / "head.npz")
        assert {array.shape[-1] for array in head.values()} == {classes}
    log = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [(row["task"], row["step"]) for row in map(json.loads, log) if "loss" in row]
    assert rows == [(task, step) for task in ("docstrings", "sst2") for step in (1, 2)]


def test_adapters_that_differ_are_no_stack(tmp_path):
    folders = f"{adapter(tmp_path / 'r2', 0)},{adapter(tmp_path / 'r3', 0, rank=3)}"
    with pytest.raises(ValueError, match="differ in weights, methods or ranks"):
        task_switching.main(config_of(adapters=folders), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_adapters_of_another_model_are_refused(tmp_path):
    folders = f"{adapter(tmp_path / 'one', 0)},{adapter(tmp_path / 'two', 1)}"
    config = config_of(adapters=folders)
    config.model.path = str(FIXTURES / "bert")
    with pytest.raises(ValueError, match=r"not for this model|no tensor matches"):
        task_switching.main(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "two adapters or two tasks"),
        ({"adapters": "one"}, "two adapters or two tasks"),
        ({"cycles": 0}, "cycles = 0"),
        ({"tasks": {"docstrings": {}, "sst2": {}}, "seeds": ()}, "name one or more"),
        ({"tasks": {"docstrings": {}, "sst2": {}}, "kinds": ("tie",)}, "nearest: 'ties'"),
        ({"tasks": {"docstrings": {}, "sst2": {}}, "density": 0.0}, "density = 0.0"),
        ({"tasks": {"docstrings": {}, "sst2": {}}, "steps": 0}, "steps = 0"),
    ],
)
def test_a_mistake_is_found_before_a_model_is_read(fields, message):
    config = config_of()
    with config.unlocked():
        config.update(fields)
    with pytest.raises(ValueError, match=message):
        task_switching.main(config, None)
