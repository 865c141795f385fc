"""What a config.json may not ask of a model that sees, and what it may leave out."""

import json
from pathlib import Path

import pytest

from lora_jax.hub.families import FAMILIES

FIXTURES = Path(__file__).parent.parent / "fixtures"


def read(name, options=None, **changes):
    """The config of a recorded model with some fields changed, deeper ones by `part__field`."""
    fields = json.loads((FIXTURES / name / "config.json").read_text())
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = fields
        for parent in parents:
            inner = inner[parent]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    return FAMILIES[fields["model_type"]].read_config(fields, **(options or {}))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vit_pooled", {"hidden_size": None, "image_size": None}, "lacks hidden_size, image_size"),
        ("vit_pooled", {"hidden_act": "mish"}, "unknown activation 'mish'"),
        ("vit_pooled", {"pooler_act": "mish"}, "unknown pooler_activation 'mish'"),
        ("clip", {"text_config__eos_token_id": [2, 3]}, r"eos_token_id \[2, 3\]"),
        ("clip", {"projection_dim": 9, "text_config__hidden_act": "mish"}, "'mish'"),
        ("siglip", {"text_config__projection_size": 9}, "images are 16 wide, those of texts 9"),
        ("llava", {"vision_config": None}, "lacks vision_config"),
        (
            "llava",
            {"vision_config__model_type": "pixtral"},
            "vision_config 'pixtral'; known: clip_vision_model, siglip_vision_model",
        ),
        (
            "llava",
            {"text_config__model_type": "opt"},
            "text_config 'opt'; known: llama, mistral, qwen2",
        ),
        ("llava", {"vision_feature_layer": 9}, r"depths \(9,\) .* has 3 layers"),
        ("llava", {"vision_feature_select_strategy": "cls"}, "unknown select 'cls'"),
        ("qwen2_5_vl", {"vision_config": None}, "lacks vision_config"),
        ("qwen2_5_vl", {"vision_config__depth": None}, "vision_config lacks depth"),
        ("qwen2_5_vl", {"vision_config__out_hidden_size": 9}, "images are 9 wide, .* tokens 16"),
        ("qwen2_5_vl", {"vision_config__window_size": 1}, "a window is smaller than a square"),
        ("qwen2_5_vl", {"vision_config__fullatt_block_indexes": [5]}, r"\(5,\) are not among 2"),
        (
            "qwen2_5_vl",
            {"vision_config__rope_parameters": {"rope_type": "yarn"}},
            "rope_type 'yarn' of vision_config",
        ),
        (
            "qwen2_5_vl",
            {"text_config__rope_parameters__mrope_section": [1, 1]},
            "not the 4 pairs of head_dim 8",
        ),
    ],
)
def test_what_is_not_computed_is_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        read(name, **changes)


def test_only_a_vit_has_a_head():
    with pytest.raises(ValueError, match="'classification' is not supported for 'clip_vision"):
        read("clip_vision", {"head": "classification"})


def test_published_configs_that_name_no_sizes_mean_the_original_defaults():
    config = FAMILIES["siglip"].read_config({"model_type": "siglip"})
    assert (config.vision.dim, config.vision.patch_size) == (768, (16, 16))
    assert (config.text.vocab_size, config.text.positions) == (32000, 64)
    config = FAMILIES["clip"].read_config(
        {"model_type": "clip", "text_config": {}, "text_config_dict": {"hidden_size": 768}}
    )
    assert (config.vision.patch_size, config.text.dim) == ((32, 32), 768)
    config = FAMILIES["llava"].read_config(
        {
            "model_type": "llava",
            "text_config": {"vocab_size": 32064},
            "vision_config": {"num_hidden_layers": 24},
        }
    )
    assert (config.language.layers, config.vocab_size) == (32, 32064)
    assert config.depths == (23,)


def test_special_tokens_of_the_whole_count_before_those_of_the_language_model():
    """generation_config.json knows better than config.json where texts end."""
    config = read("qwen2_5_vl", eos_token_id=[7, 8], pad_token_id=9)
    assert config.eos_ids == (7, 8)
    assert config.pad_id == 9
    assert read("llava", eos_token_id=7).eos_ids == (7,)
