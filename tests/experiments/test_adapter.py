"""The adapter of a run: its method by config, and PEFT's files after it and before another."""

import io
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

import lora_jax as lora
from experiments import adapter, finetune
from lora_jax import hub

ROBERTA = Path(__file__).parent.parent / "fixtures" / "roberta"


def make(**method):
    """A config with a method, and a small encoder with its adapter."""
    config = finetune.defaults()
    config.method.update(**method)
    config.length = 8
    base = hub.load_model(ROBERTA)
    lifted = finetune.lift(config, base)
    factors = lifted.init(jax.random.key(0), base.params)
    return config, lifted, {"params": base.params, "adapter": factors}


def test_settings_of_every_config_are_no_fields_of_a_method_without_them():
    config, lifted, _ = make(name="IA3")
    assert adapter.method_of(config) == lora.IA3()
    said = adapter.describe(config, lifted)
    assert said.endswith("IA3 has no rank, alpha, dropout: not used")
    assert "layers/q_proj/kernel" in said
    config.method.update(name="LoRA", rank=3)
    assert adapter.method_of(config) == lora.LoRA(rank=3, alpha=16.0)
    assert "not used" not in adapter.describe(config, lifted)


def test_a_run_starts_from_the_adapter_that_another_left(tmp_path):
    config, lifted, variables = make(rank=2)
    console = Console(file=io.StringIO())
    adapter.save(console, tmp_path, config, lifted, variables)
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
    fresh = {**variables, "adapter": lifted.init(jax.random.key(1), variables["params"])}
    assert adapter.start_from(config, lifted, fresh) == fresh
    config.adapter = str(tmp_path / "adapter")
    found = adapter.start_from(config, lifted, fresh)["adapter"]
    jax.tree.map(np.testing.assert_array_equal, found, variables["adapter"])


def test_an_adapter_that_does_not_fit_is_refused(tmp_path):
    config, lifted, variables = make(rank=2)
    adapter.save(Console(file=io.StringIO()), tmp_path, config, lifted, variables)
    other, wider, fresh = make(rank=4)
    other.adapter = str(tmp_path / "adapter")
    with pytest.raises(ValueError, match="rank"):
        adapter.start_from(other, wider, fresh)
    with pytest.raises(ValueError, match="train = 'lora' has none"):
        adapter.start_from(other, None, fresh)
    other.adapter = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        adapter.start_from(other, wider, fresh)
