"""Qwen2.5-VL as the Hugging Face hub stores it: fields of config.json, names of tensors."""

from collections.abc import Mapping
from typing import Any

from lora_jax.hub import decoder
from lora_jax.hub.fields import read_fields
from lora_jax.hub.names import Names, Stored, linear, nest
from lora_jax.hub.nested import language_fields
from lora_jax.models.qwen2_5_vl import QwenVLConfig
from lora_jax.models.qwen2_5_vl_vision import QwenVisionConfig

_VISION_FIELDS = {
    "dim": "hidden_size",
    "layers": "depth",
    "heads": "num_heads",
    "ff_dim": "intermediate_size",
    "out_dim": "out_hidden_size",
    "patch": "patch_size",
}
# Published files leave out what has the default value of the original implementation.
_VISION_DEFAULTS: dict[str, Any] = {
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": (7, 15, 23, 31),
    "hidden_act": "silu",
}
_SECTIONS = (16, 24, 24)


def read_config(fields: Mapping[str, Any], **options: Any) -> QwenVLConfig:
    """Makes the config of a Qwen2.5-VL from the fields of its config.json.

    Args:
        fields: the content of config.json.
        **options: fields of `QwenVLConfig` that the file does not decide, such as `scan`.

    Returns:
        The config.

    Raises:
        ValueError: a field is missing, or asks for what the model does not compute.
    """
    if not fields.get("vision_config"):
        raise ValueError("lacks vision_config")
    # Published files hold the fields of the language model beside vision_config.
    inner = {"rope_theta": 1_000_000.0, **fields, **(fields.get("text_config") or {})}
    text = language_fields(fields, inner) | {"model_type": "qwen2"}
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    sections = tuple(rope.get("mrope_section", _SECTIONS))
    return QwenVLConfig(
        vision=_read_vision(fields["vision_config"]),
        language=decoder.read_config(text, mrope_sections=sections),
        image_id=fields.get("image_token_id", 151655),
        video_id=fields.get("video_token_id", 151656),
        **options,
    )


def _read_vision(fields: Mapping[str, Any]) -> QwenVisionConfig:
    sizes = read_fields(fields, _VISION_FIELDS, part="vision_config")
    rope = fields.get("rope_parameters") or {}
    if rope.get("rope_type", "axial") not in ("axial", "default"):
        raise ValueError(f"rope_type {rope['rope_type']!r} of vision_config is not supported")
    fields = _VISION_DEFAULTS | dict(fields)
    return QwenVisionConfig(
        **sizes,
        channels=fields.get("in_channels", fields.get("in_chans", 3)),
        frames=fields["temporal_patch_size"],
        merge=fields["spatial_merge_size"],
        window=fields["window_size"] // fields["spatial_merge_size"] // fields["patch_size"],
        full_layers=tuple(fields["fullatt_block_indexes"]),
        activation=fields["hidden_act"],
        theta=rope.get("rope_theta", 10000.0),
    )


def names(config: QwenVLConfig) -> Names:
    """The table of tensors of all parts; the tower's fused projections are split."""
    vision, block = config.vision, "visual.blocks.{layer}"
    window = (vision.channels, vision.frames, vision.patch, vision.patch)
    fused = [
        row._replace(part=(i, 3))
        for i, ours in enumerate(("q_proj", "k_proj", "v_proj"))
        for row in linear(f"vision/layers/{ours}", f"{block}.attn.qkv")
    ]
    return nest(
        {"language": ("model.", decoder.names(config.language))},
        renames={
            r"^model\.visual\.": "visual.",
            r"^model\.language_model\.": "model.",
            r"^lm_head\.": "model.lm_head.",
        },
        stored=(
            Stored(
                "vision/patches/kernel",
                "visual.patch_embed.proj.weight",
                transpose=True,
                window=window,
            ),
            Stored("vision/layers/attention_norm/scale", f"{block}.norm1.weight"),
            *fused,
            *linear("vision/layers/o_proj", f"{block}.attn.proj"),
            Stored("vision/layers/mlp_norm/scale", f"{block}.norm2.weight"),
            *linear("vision/layers/gate_proj", f"{block}.mlp.gate_proj"),
            *linear("vision/layers/up_proj", f"{block}.mlp.up_proj"),
            *linear("vision/layers/down_proj", f"{block}.mlp.down_proj"),
            Stored("projector/norm/scale", "visual.merger.ln_q.weight"),
            *linear("projector/fc1", "visual.merger.mlp.0"),
            *linear("projector/fc2", "visual.merger.mlp.2"),
        ),
        unused=(r"visual\.rotary_pos_emb\.inv_freq",),
    )
