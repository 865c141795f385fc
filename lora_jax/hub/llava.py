"""LLaVA-1.5 as the Hugging Face hub stores it: fields of config.json, names of tensors."""

from collections.abc import Mapping
from typing import Any

from lora_jax.hub import decoder, vision
from lora_jax.hub.clip import VISION_DEFAULTS
from lora_jax.hub.names import Names, linear, nest
from lora_jax.hub.nested import language_fields
from lora_jax.models.checks import check_name
from lora_jax.models.llava import LlavaConfig

# Published files leave out what has the default value of the original implementation.
_LANGUAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "mistral": {},
    "qwen2": {},
}


def read_config(fields: Mapping[str, Any], **options: Any) -> LlavaConfig:
    """Makes the config of a LLaVA from the fields of its config.json.

    Args:
        fields: the content of config.json.
        **options: fields of `LlavaConfig` that the file does not decide, such as `scan`.

    Returns:
        The config.

    Raises:
        ValueError: a field is missing, or asks for what the model does not compute.
    """
    missing = [name for name in ("vision_config", "text_config") if not fields.get(name)]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    tower = vision.read_config(_part(fields, "vision_config", VISION_DEFAULTS))
    language = decoder.read_config(
        language_fields(fields, _part(fields, "text_config", _LANGUAGE_DEFAULTS))
    )
    layers = fields.get("vision_feature_layer", -2)
    layers = [layers] if isinstance(layers, int) else layers
    return LlavaConfig(
        vision=tower,
        language=language,
        image_id=fields.get("image_token_index", fields.get("image_token_id", 32000)),
        # Counted from the end, the states begin with those before the first layer.
        depths=tuple(i if i >= 0 else tower.layers + 1 + i for i in layers),
        select=fields.get("vision_feature_select_strategy", "default"),
        activation=fields.get("projector_hidden_act", "gelu"),
        projector_bias=fields.get("multimodal_projector_bias", True),
        **options,
    )


def _part(
    fields: Mapping[str, Any], name: str, defaults: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    part = fields[name]
    model_type = part.get("model_type", next(iter(defaults)))
    check_name(f"model_type of {name}", model_type, tuple(defaults))
    return {"model_type": model_type} | defaults[model_type] | part


def names(config: LlavaConfig) -> Names:
    """The table of tensors of all parts."""
    return nest(
        {
            "vision": ("vision_tower.", vision.names(config.vision)),
            "language": ("language_model.", decoder.names(config.language)),
        },
        renames={
            r"^model\.(vision_tower|language_model|multi_modal_projector)\.": r"\1.",
            r"^lm_head\.": "language_model.lm_head.",
        },
        stored=(
            *linear("projector/fc1", "multi_modal_projector.linear_1"),
            *linear("projector/fc2", "multi_modal_projector.linear_2"),
        ),
    )
