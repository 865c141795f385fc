"""LLaVA and Qwen2.5-VL: texts with images in them."""

from typing import Any

import numpy as np
from golden.case import INIT_RANGE, Case, Inputs, texts
from golden.decoders import GREEDY

IMAGE = 39
TEXT: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": INIT_RANGE,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EYES: dict[str, Any] = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


def with_images(rng: np.random.Generator, *counts: int, per_image: int, left: bool) -> Inputs:
    """Texts with so many images each: two tokens, an image, a token, an image, a token …"""
    made = texts(rng, IMAGE, *(2 + n * (per_image + 1) for n in counts), left=left)
    for ids, mask, count in zip(*made.values(), counts, strict=True):
        start = int(np.argmax(mask)) + 2
        for i in range(count):
            first = start + i * (per_image + 1)
            ids[first : first + per_image] = IMAGE
    return made


def llava_inputs(per_image: int, left: bool = False):
    """A text with one image and one with two."""

    def inputs(rng: np.random.Generator) -> Inputs:
        pixels = rng.normal(size=(3, 3, 8, 8)).astype(np.float32)
        return with_images(rng, 1, 2, per_image=per_image, left=left) | {"pixel_values": pixels}

    return inputs


def llava(eyes: str, text: dict[str, Any] | None = None, **fields: Any) -> Any:
    """A LLaVA of transformers with its random weights."""
    import transformers

    wide = {"initializer_factor": 4.0} if eyes == "clip_vision_model" else {}
    config = transformers.LlavaConfig(
        vision_config=transformers.AutoConfig.for_model(eyes, **EYES, **wide),
        text_config=transformers.AutoConfig.for_model("llama", **TEXT | (text or {})),
        image_token_index=IMAGE,
        **fields,
    )
    config._attn_implementation = "eager"
    return transformers.LlavaForConditionalGeneration(config)


CASES = {
    "llava": Case(
        make=lambda: llava("clip_vision_model"),
        inputs=llava_inputs(4),
        named={"pixels": "pixel_values"},
        generate={"greedy": GREEDY},
        prompts=llava_inputs(4, left=True),
    ),
    # All states of two layers, of a tower without class token; a head that is the embedding.
    "llava_full": Case(
        make=lambda: llava(
            "siglip_vision_model",
            {"tie_word_embeddings": True},
            vision_feature_layer=[0, -1],
            vision_feature_select_strategy="full",
            projector_hidden_act="relu",
            multimodal_projector_bias=False,
        ),
        inputs=llava_inputs(4),
        named={"pixels": "pixel_values"},
    ),
}
