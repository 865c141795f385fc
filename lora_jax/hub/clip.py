"""CLIP and SigLIP as the Hugging Face hub stores them: fields of config.json, names of tensors."""

from collections.abc import Mapping
from typing import Any

from lora_jax.hub import vision
from lora_jax.hub.fields import read_fields
from lora_jax.hub.names import Names, Stored, linear, nest, norm
from lora_jax.models.clip import ClipConfig, TextConfig

_FIELDS = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ff_dim": "intermediate_size",
    "positions": "max_position_embeddings",
    "activation": "hidden_act",
    "eps": "layer_norm_eps",
}

# Published files leave out what has these values.
_TEXT_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip": {
        "vocab_size": 49408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "eos_token_id": 49407,
    },
    "siglip": {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 64,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "pad_token_id": 1,
        "eos_token_id": 49407,
    },
}
VISION_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip_vision_model": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_channels": 3,
        "image_size": 224,
        "patch_size": 32,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
    "siglip_vision_model": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_channels": 3,
        "image_size": 224,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    },
}


def read_config(fields: Mapping[str, Any], **options: Any) -> ClipConfig:
    """Makes the config of a CLIP or SigLIP from the fields of its config.json.

    Args:
        fields: the content of config.json.
        **options: fields of `ClipConfig` that the file does not decide, such as `scan`.

    Returns:
        The config.

    Raises:
        ValueError: the file asks for what the towers do not compute.
    """
    model_type = fields["model_type"]
    is_clip = model_type == "clip"
    text = _nested(fields, "text_config")
    seen = VISION_DEFAULTS[f"{model_type}_vision_model"] | _nested(fields, "vision_config")
    seen["model_type"] = f"{model_type}_vision_model"
    width = fields.get("projection_dim", 512) if is_clip else None
    return ClipConfig(
        model_type=model_type,
        vision=vision.read_config(seen, projection_dim=width),
        text=_read_text(model_type, text, width),
        logit_bias=not is_clip,
        **options,
    )


def _read_text(model_type: str, fields: Mapping[str, Any], width: int | None) -> TextConfig:
    fields = _TEXT_DEFAULTS[model_type] | dict(fields)
    sizes = read_fields(fields, _FIELDS)
    is_clip, end = model_type == "clip", fields["eos_token_id"]
    if is_clip and not isinstance(end, int):
        raise ValueError(f"eos_token_id {end!r} is not supported for CLIP; a single id is")
    return TextConfig(
        **sizes,
        causal=is_clip,
        # Early files say 2, which is no token of theirs, and mean the highest id.
        pooling="last" if not is_clip else "highest" if end == 2 else "end",
        eos_id=end if isinstance(end, int) else end[0],
        pad_id=fields["pad_token_id"],
        projection_dim=width or fields.get("projection_size") or fields["hidden_size"],
        projection_bias=not is_clip,
    )


def _nested(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A config inside the config; early files held it twice, the second one being the valid one."""
    return {**(fields.get(name) or {}), **(fields.get(f"{name}_dict") or {})}


_TEXT_NAMES = Names(
    stored=(
        Stored("embed/embedding", "embeddings.token_embedding.weight"),
        Stored("positions/embedding", "embeddings.position_embedding.weight"),
        *vision.tower_layers("encoder.layers.{layer}"),
        *norm("norm", "final_layer_norm"),
        *linear("projection", "head"),
    ),
    unused=(r"embeddings\.position_ids",),
)


def names(config: ClipConfig) -> Names:
    """The table of tensors of both towers."""
    towers = {
        "vision": ("vision_model.", vision.names(config.vision)),
        "text": ("text_model.", _TEXT_NAMES),
    }
    numbers = (Stored("logit_scale", "logit_scale"), Stored("logit_bias", "logit_bias"))
    if config.model_type == "siglip":
        return nest(towers, stored=numbers)
    # CLIP's projections lie beside its towers.
    projections = (
        Stored("vision/projection/kernel", "visual_projection.weight", transpose=True),
        Stored("text/projection/kernel", "text_projection.weight", transpose=True),
    )
    return nest(towers, stored=(*numbers, *projections))
