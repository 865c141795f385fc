"""ViT, and CLIP and SigLIP with their towers of images and texts."""

from typing import Any

import numpy as np
from golden.case import INIT_RANGE, Case, Inputs, texts

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 12,
    "patch_size": 4,
}
TEXT: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 9,
    "bos_token_id": 3,
    "pad_token_id": 1,
    "eos_token_id": 4,
}


def make(name: str, model_type: str, **fields: Any) -> Any:
    """A model of transformers with its random weights."""
    import transformers

    config = transformers.AutoConfig.for_model(model_type, **fields)
    return getattr(transformers, name)(config)


def pictures(*size: int):
    """Three images of random pixels."""

    def inputs(rng: np.random.Generator) -> Inputs:
        return {"pixel_values": rng.normal(size=(3, 3, *size)).astype(np.float32)}

    return inputs


def pictures_and_texts(end: int):
    """Three images, and texts of 7, 5, 2 and 3 tokens that end with the token `end`."""

    def inputs(rng: np.random.Generator) -> Inputs:
        made = texts(rng, TEXT["vocab_size"] - 1, 7, 5, 2, 3, pad_id=TEXT["pad_token_id"])
        made["input_ids"][np.arange(4), made["attention_mask"].sum(axis=1) - 1] = end
        return made | pictures(12, 12)(rng)

    return inputs


def both(model_type: str, **text: Any) -> dict[str, Any]:
    """Settings of a model of two towers."""
    wide = {"initializer_factor": 4.0} if model_type == "clip" else {}
    return {
        "vision_config": SIZES | {"num_hidden_layers": 2} | wide,
        "text_config": TEXT | wide | text,
        **wide,
    }


TWO_TOWERS: dict[str, Any] = {
    "arguments": ("input_ids", "attention_mask", "pixel_values"),
    "output": "logits_per_image",
    "mask": None,
}
POOLED: dict[str, Any] = {
    "arguments": ("pixel_values",),
    "settings": {"outputs": "pooled"},
    "mask": None,
}

CASES = {
    "vit_pooled": Case(
        make=lambda: make(
            "ViTModel",
            "vit",
            **SIZES | {"image_size": (8, 12), "patch_size": (4, 2)},
            pooler_output_size=20,
            initializer_range=INIT_RANGE,
        ),
        inputs=pictures(8, 12),
        **POOLED,
        output="pooler_output",
        options={"pooler": True},
    ),
    "vit_classification": Case(
        make=lambda: make(
            "ViTForImageClassification",
            "vit",
            **SIZES,
            num_labels=5,
            qkv_bias=False,
            hidden_act="gelu_new",
            initializer_range=INIT_RANGE,
        ),
        inputs=pictures(12, 12),
        arguments=("pixel_values",),
        mask=None,
        options={"head": "classification"},
    ),
    "clip_vision": Case(
        make=lambda: make(
            "CLIPVisionModelWithProjection",
            "clip_vision_model",
            **SIZES,
            projection_dim=20,
            initializer_factor=4.0,
        ),
        inputs=pictures(12, 12),
        **POOLED,
        output="image_embeds",
        options={"projection_dim": 20},
    ),
    "siglip_vision": Case(
        # As in so400m-patch14-384, pixels are left over at the right and at the bottom.
        make=lambda: make("SiglipVisionModel", "siglip_vision_model", **SIZES | {"image_size": 14}),
        inputs=pictures(14, 14),
        **POOLED,
        output="pooler_output",
    ),
    "clip": Case(
        make=lambda: make("CLIPModel", "clip", projection_dim=20, **both("clip")),
        inputs=pictures_and_texts(TEXT["eos_token_id"]),
        **TWO_TOWERS,
    ),
    "clip_highest_id": Case(
        make=lambda: make("CLIPModel", "clip", projection_dim=20, **both("clip", eos_token_id=2)),
        inputs=pictures_and_texts(TEXT["vocab_size"] - 1),
        **TWO_TOWERS,
    ),
    "siglip": Case(
        make=lambda: make("SiglipModel", "siglip", **both("siglip", projection_size=16)),
        inputs=pictures_and_texts(TEXT["eos_token_id"]),
        **TWO_TOWERS,
    ),
}
