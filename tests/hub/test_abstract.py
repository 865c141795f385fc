"""A model's shape is its files' without the weights."""

import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from golden import published

import lora_jax as lora
from lora_jax import hub

FIXTURES = Path(__file__).parent.parent / "fixtures"


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5", "qwen2_5_vl"])
def test_it_has_the_params_of_the_loaded_model_as_shapes(family):
    loaded = hub.load_model(FIXTURES / family, dtype="float32")
    found = hub.abstract_model(FIXTURES / family, dtype="float32")
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(found.params))
    assert shapes(found.params) == shapes(loaded.params)
    assert (found.config, found.directory) == (loaded.config, loaded.directory)


def test_no_weight_file_is_needed(tmp_path):
    shutil.copy(FIXTURES / "llama" / "config.json", tmp_path)
    assert shapes(hub.abstract_model(tmp_path).params)


def test_it_is_quantised_as_the_loaded_model_is():
    how = {"kind": "nf4", "block": 4, "keep": ("o_proj",)}
    loaded = hub.load_model(FIXTURES / "llama", quantize=how)
    found = hub.abstract_model(FIXTURES / "llama", quantize=how)
    assert shapes(found.params) == shapes(loaded.params)


def test_its_function_runs_on_shapes():
    ids = jax.ShapeDtypeStruct((2, 5), jnp.int32)
    found = hub.abstract_model("gpt3-125M", dtype="bfloat16", remat="full")
    logits = jax.eval_shape(found.apply, found.params, ids)
    assert logits.shape == (2, 5, 50257)
    assert found.config.remat == "full"


def test_the_fields_of_a_config_json_describe_a_model():
    fields = published.read("llama_3_70b")["config"]
    sizes = (math.prod(x.shape) for x in jax.tree.leaves(hub.abstract_model(fields).params))
    assert sum(sizes) == 70_553_706_496


@pytest.mark.parametrize("name", hub.PUBLISHED_SHAPES)
def test_every_published_shape_has_about_the_parameters_of_its_name(name):
    sizes = sum(math.prod(x.shape) for x in jax.tree.leaves(hub.abstract_model(name).params))
    said = name.removeprefix("gpt3-")
    assert sizes == pytest.approx(float(said[:-1]) * {"M": 1e6, "B": 1e9}[said[-1]], rel=0.05)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("gpt3-170B", {}, r"no published shape of that name; nearest: gpt3-175B, "),
        ("gpt3-175B", {"pooler": True}, r"family 'gpt2' has no option pooler; it has .*remat"),
        ({"model_type": "gpt5"}, {}, r"the model's config has model_type 'gpt5'; supported: bert"),
        ({"model_type": "llama"}, {}, r"the model's config: lacks vocab_size, hidden_size"),
        ("gpt3-175B", {"quantize": "nf5"}, r"unknown quantisation 'nf5'"),
    ],
)
def test_what_is_no_model_is_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        hub.abstract_model(model, **options)


def test_a_directory_without_a_config_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        hub.abstract_model(tmp_path)


def test_without_a_directory_the_tokenizer_says_that_it_is_not_there():
    assert json.dumps(str(hub.abstract_model("gpt3-125M").directory)) == '"no directory"'
    with pytest.raises(FileNotFoundError):
        hub.abstract_model("gpt3-125M").tokenizer.tokens([1])


def test_it_can_be_lifted():
    base = hub.abstract_model("gpt3-175B", dtype="bfloat16")
    ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    for rank, count in ((1, 4_718_592), (4, 18_874_368)):  # as Hu et al., 2021, table 4
        lifted = lora.lift(
            base.apply, base.params, ids, targets=("q_proj", "v_proj"), method=lora.LoRA(rank=rank)
        )
        factors = jax.eval_shape(lifted.init, jax.random.key(0), base.params)
        assert lora.count_parameters(factors) == count
