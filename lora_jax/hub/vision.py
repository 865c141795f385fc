"""Image towers as the Hugging Face hub stores them: ViT, CLIP's and SigLIP's."""

from collections.abc import Mapping
from typing import Any

from lora_jax.hub.fields import check_present, read_fields
from lora_jax.hub.heads import read_head
from lora_jax.hub.names import Names, Stored, linear, norm
from lora_jax.models.vision import VisionConfig

_FIELDS = {
    "dim": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ff_dim": "intermediate_size",
    "channels": "num_channels",
    "activation": "hidden_act",
    "eps": "layer_norm_eps",
}

# What sets the families apart besides sizes.
_SWITCHES: dict[str, dict[str, Any]] = {
    "vit": {},
    "clip_vision_model": {
        "patch_bias": False,
        "input_norm": True,
        "output_norm": False,
        "pooling": "class",
    },
    "siglip_vision_model": {"class_token": False, "pooling": "attention"},
}


def read_config(
    fields: Mapping[str, Any], *, head: str | None = None, **options: Any
) -> VisionConfig:
    """Makes the config of an image tower from the fields of its config.json.

    Args:
        fields: the content of config.json.
        head: "classification", for the classifier of a ViT; or None.
        **options: fields of `VisionConfig` that the file does not decide, such as `scan`, and
            `pooler` for a ViT.

    Returns:
        The config.

    Raises:
        ValueError: a field is missing, or the head is not one that this family has.
    """
    model_type = fields["model_type"]
    check_present(fields, (*_FIELDS.values(), "image_size", "patch_size"))
    sizes = read_fields(fields, _FIELDS)
    sizes["image_size"], sizes["patch_size"] = (
        (side, side) if isinstance(side, int) else tuple(side)
        for side in (fields["image_size"], fields["patch_size"])
    )
    if model_type == "vit":
        sizes["qkv_bias"] = fields.get("qkv_bias", True)
        sizes["pooler_dim"] = fields.get("pooler_output_size") or fields["hidden_size"]
        sizes["pooler_activation"] = fields.get("pooler_act", "tanh")
        sizes |= read_head(fields, head)
    elif head is not None:
        raise ValueError(f"head {head!r} is not supported for {model_type!r}; only 'vit' has one")
    if model_type == "siglip_vision_model":
        sizes["pooler"] = fields.get("vision_use_head", True)
    return VisionConfig(model_type=model_type, **_SWITCHES[model_type], **(sizes | options))


def _patches(config: VisionConfig, name: str) -> tuple[Stored, Stored]:
    window = (config.channels, *config.patch_size)
    return Stored("patches/kernel", f"{name}.weight", transpose=True, window=window), Stored(
        "patches/bias", f"{name}.bias"
    )


def tower_layers(layer: str) -> tuple[Stored, ...]:
    """The rows of CLIP's and SigLIP's layers, of images and of texts.

    Args:
        layer: what stands before a layer's names, with `{layer}` in it.
    """
    return (
        *norm("layers/attention_norm", f"{layer}.layer_norm1"),
        *linear("layers/q_proj", f"{layer}.self_attn.q_proj"),
        *linear("layers/k_proj", f"{layer}.self_attn.k_proj"),
        *linear("layers/v_proj", f"{layer}.self_attn.v_proj"),
        *linear("layers/o_proj", f"{layer}.self_attn.out_proj"),
        *norm("layers/mlp_norm", f"{layer}.layer_norm2"),
        *linear("layers/fc1", f"{layer}.mlp.fc1"),
        *linear("layers/fc2", f"{layer}.mlp.fc2"),
    )


def _vit_names(config: VisionConfig) -> Names:
    layer = "encoder.layer.{layer}"
    return Names(
        prefixes=("vit.",),
        # How transformers calls them since its version 5 when it does not save the old names.
        renames={
            r"^layers\.": "encoder.layer.",
            r"attention\.([qkv])_proj": r"attention.attention.\1_proj",
            "q_proj": "query",
            "k_proj": "key",
            "v_proj": "value",
            r"attention\.o_proj": "attention.output.dense",
            r"mlp\.fc1": "intermediate.dense",
            r"mlp\.fc2": "output.dense",
        },
        stored=(
            Stored("class_token", "embeddings.cls_token", ones=2),
            Stored("positions/embedding", "embeddings.position_embeddings", ones=1),
            *_patches(config, "embeddings.patch_embeddings.projection"),
            *norm("layers/attention_norm", f"{layer}.layernorm_before"),
            *linear("layers/q_proj", f"{layer}.attention.attention.query"),
            *linear("layers/k_proj", f"{layer}.attention.attention.key"),
            *linear("layers/v_proj", f"{layer}.attention.attention.value"),
            *linear("layers/o_proj", f"{layer}.attention.output.dense"),
            *norm("layers/mlp_norm", f"{layer}.layernorm_after"),
            *linear("layers/fc1", f"{layer}.intermediate.dense"),
            *linear("layers/fc2", f"{layer}.output.dense"),
            *norm("norm", "layernorm"),
            *linear("pooler", "pooler.dense"),
            *linear("head/out_proj", "classifier"),
        ),
        unused=(r"pooler\.dense\.(weight|bias)", r"classifier\.(weight|bias)"),
    )


def _pool(name: str) -> tuple[Stored, ...]:
    """SigLIP's attention pooling, whose query, key and value projections are one tensor."""
    fused = [
        row
        for i, ours in enumerate(("q_proj", "k_proj", "v_proj"))
        for row in (
            Stored(
                f"pooler/{ours}/kernel",
                f"{name}.attention.in_proj_weight",
                transpose=True,
                part=(i, 3),
            ),
            Stored(f"pooler/{ours}/bias", f"{name}.attention.in_proj_bias", part=(i, 3)),
        )
    ]
    return (
        Stored("pooler/query", f"{name}.probe", ones=2),
        *fused,
        *linear("pooler/o_proj", f"{name}.attention.out_proj"),
        *norm("pooler/norm", f"{name}.layernorm"),
        *linear("pooler/fc1", f"{name}.mlp.fc1"),
        *linear("pooler/fc2", f"{name}.mlp.fc2"),
    )


def names(config: VisionConfig) -> Names:
    """The table of tensors of an image tower."""
    if config.model_type == "vit":
        return _vit_names(config)
    return Names(
        prefixes=("vision_model.",),
        stored=(
            Stored("class_token", "embeddings.class_embedding"),
            Stored("positions/embedding", "embeddings.position_embedding.weight"),
            *_patches(config, "embeddings.patch_embedding"),
            *norm("input_norm", "pre_layrnorm"),
            *tower_layers("encoder.layers.{layer}"),
            *norm("norm", "post_layernorm"),
            *_pool("head"),
            Stored("projection/kernel", "visual_projection.weight", transpose=True),
        ),
        unused=(r"embeddings\.position_ids", r"head\..+", r"(visual_projection|classifier)\..+"),
    )
