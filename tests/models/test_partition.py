"""Where the weights of every family lie on a mesh."""

import functools
import math
import re
from pathlib import Path

import jax
import pytest
from golden.all import CASES
from jax.sharding import PartitionSpec as P

from lora_jax import hub, models
from lora_jax.lifting import path_name
from lora_jax.models import bert, partition_rules

FIXTURES = Path(__file__).parent.parent / "fixtures"

# Weights that lie whole on every device; all others with two axes or more are split.
WHOLE = r".*(norm/(scale|bias)|(o_proj|fc2|down_proj)/bias|types/embedding|router/kernel)"
BIASES_BY_DISTANCE = r"params/(encoder|decoder)/relative/embedding"

BERT_BASE = bert.BertConfig(vocab_size=30522, dim=768, heads=12, layers=12, ff_dim=3072)


def layout(config):
    """The shape and the spec of each weight that some rule speaks of, and the shapes of the rest"""
    rules, split, whole = partition_rules(config), {}, {}
    for path, leaf in jax.tree.leaves_with_path({"params": models.build(config).shapes}):
        name = path_name(path)
        specs = [spec for regex, spec in rules if re.fullmatch(regex, name)]
        if specs:
            split[name] = leaf.shape, specs[0]
        else:
            whole[name] = leaf.shape
    return split, whole


@functools.cache
def layout_of(name):
    return layout(config_of(name))


def config_of(name):
    return hub.load_model(FIXTURES / name, **CASES[name].options).config


@pytest.mark.parametrize("name", CASES)
def test_every_large_weight_of_the_zoo_is_split(name):
    split, whole = layout_of(name)
    for path, shape in whole.items():
        small = len(shape) < 2 or re.fullmatch(f"{WHOLE}|{BIASES_BY_DISTANCE}", path)
        assert small, (path, shape)
    for path, (shape, spec) in split.items():
        assert len(spec) == len(shape), (path, shape, spec)
        # Each device of a mesh with tensor = 2 and fsdp = 2 holds a quarter of every kernel that
        # lies between two hidden states, whatever its family calls it.
        if re.fullmatch(r".*(_proj|fc1|fc2|dense|projection)/kernel", path):
            assert sorted(filter(None, spec)) == (
                ["fsdp"] if path.endswith("head/out_proj/kernel") else ["fsdp", "tensor"]
            )


@pytest.mark.parametrize("name", CASES)
def test_the_stacking_axes_are_never_split(name):
    split, _ = layout_of(name)
    for path, (_, spec) in split.items():
        if "layers/" in path:
            stacked = 2 if "experts/" in path and path.endswith("kernel") else 1
            assert all(entry is None for entry in spec[:stacked]), (path, spec)


def test_what_goes_into_a_block_is_split_by_outputs_and_what_comes_out_by_inputs():
    split, _ = layout_of("llama_biased")
    into, out_of = P(None, "fsdp", "tensor"), P(None, "tensor", "fsdp")
    layers = {path.removeprefix("params/layers/"): spec for path, (_, spec) in split.items()}
    for name in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
        assert layers[f"{name}/kernel"] == into
        assert layers[f"{name}/bias"] == P(None, "tensor")
    for name in ("o_proj", "down_proj"):
        assert layers[f"{name}/kernel"] == out_of
        assert f"{name}/bias" not in layers


def test_experts_are_split_within_each_expert():
    split, whole = layout_of("mixtral")
    assert split["params/layers/experts/up_proj/kernel"][1] == P(None, None, "fsdp", "tensor")
    assert split["params/layers/experts/down_proj/kernel"][1] == P(None, None, "tensor", "fsdp")
    assert "params/layers/experts/router/kernel" in whole


def test_towers_and_stacks_within_a_model_are_split_like_models_of_their_own():
    split, _ = layout_of("llava_full")
    assert split["params/language/embed/embedding"][1] == P("tensor", "fsdp")
    assert split["params/vision/layers/fc1/kernel"][1] == P(None, "fsdp", "tensor")
    assert split["params/projector/fc2/kernel"][1] == P("tensor", "fsdp")
    assert split["params/vision/patches/kernel"][1] == P(None, "fsdp")
    split, whole = layout_of("flan_t5")
    assert split["params/decoder/layers/cross/v_proj/kernel"][1] == P(None, "fsdp", "tensor")
    assert "params/encoder/relative/embedding" in whole


@pytest.mark.parametrize(
    ("rows", "table"), [(50257, P(None, ("fsdp", "tensor"))), (50304, P("tensor", "fsdp"))]
)
def test_a_vocabulary_of_odd_size_is_split_by_width(rows, table):
    config = models.GPT2Config(vocab_size=rows, dim=64, heads=2, layers=1)
    split, _ = layout(config)
    assert split["params/embed/embedding"][1] == table


def test_an_untied_head_is_split_as_its_vocabulary_is():
    split, _ = layout_of("llama")
    shape, spec = split["params/lm_head/kernel"]
    expected = P("fsdp", "tensor") if shape[1] % 8 == 0 else P(("fsdp", "tensor"), None)
    assert spec == expected


def test_rules_for_what_a_model_lacks_are_left_out():
    paths = [
        path_name(path)
        for path, _ in jax.tree.leaves_with_path({"params": models.build(BERT_BASE).shapes})
    ]
    for regex, _ in partition_rules(BERT_BASE):
        assert any(re.fullmatch(regex, path) for path in paths), regex


@pytest.mark.parametrize(
    "config", [BERT_BASE, models.gpt3_config("175B")], ids=["BERT base", "GPT-3 175B"]
)
def test_eight_by_eight_devices_hold_a_sixty_fourth_of_a_large_model(config):
    split, whole = layout(config)

    def held(shape, spec):
        parts = [{None: 1, "fsdp": 8, "tensor": 8}.get(entry, 64) for entry in spec]
        assert all(size % n == 0 for size, n in zip(shape, parts, strict=True)), (shape, spec)
        return math.prod(shape) / math.prod(parts)

    total = sum(math.prod(shape) for shape, _ in split.values()) + sum(
        map(math.prod, whole.values())
    )
    one_device = sum(held(*each) for each in split.values()) + sum(map(math.prod, whole.values()))
    assert one_device / total < 1 / 64 + 0.003
