"""LLaVA and Qwen2.5-VL: texts with images in them."""

from typing import Any

import numpy as np
from golden.case import INIT_RANGE, Case, Inputs, texts
from golden.decoders import BEAM, GREEDY

from lora_jax.models.qwen2_5_vl_plan import plan_positions, plan_vision

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


GRID = np.array([[1, 4, 6], [1, 8, 4], [1, 2, 10]], np.int32)


def qwen_inputs(left: bool = False):
    """A text with one image and one with two, all of different sizes and of one window or more."""

    def inputs(rng: np.random.Generator) -> Inputs:
        made = texts(rng, IMAGE, 2 + 6 + 3, 1 + 8 + 1 + 5 + 2, left=left)
        lines = [[0, 0, *[1] * 6, 0, 0, 0], [0, *[1] * 8, 0, *[1] * 5, 0, 0]]
        for ids, mask, line in zip(*made.values(), lines, strict=True):
            ids[mask == 1] = np.where(line, IMAGE, ids[mask == 1])
        return made | {
            "pixel_values": rng.normal(size=(24 + 32 + 20, 3 * 2 * 2 * 2)).astype(np.float32),
            "image_grid_thw": GRID,
            "mm_token_type_ids": (made["input_ids"] == IMAGE).astype(np.int32),
        }

    return inputs


def qwen_plans(config: Any, inputs: Inputs) -> dict[str, Any]:
    """What is computed from sizes of images before anything is compiled."""
    grid, merge = inputs["image_grid_thw"], config.vision.merge
    return {
        "plan": plan_vision(grid, merge=merge, window=config.vision.window),
        "positions": plan_positions(
            inputs["input_ids"],
            inputs["attention_mask"],
            grid,
            image_id=config.image_id,
            merge=merge,
        ),
    }


def qwen() -> Any:
    """A Qwen2.5-VL of transformers with its random weights."""
    import transformers

    rope = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 2, 1]}
    config = transformers.Qwen2_5_VLConfig(
        text_config=TEXT
        | {"num_attention_heads": 2, "num_key_value_heads": 1, "rope_parameters": rope},
        vision_config={
            "depth": 2,
            "hidden_size": 8,
            "num_heads": 2,
            "intermediate_size": 12,
            "out_hidden_size": 16,
            "patch_size": 2,
            "window_size": 8,
            "fullatt_block_indexes": [1],
            "initializer_range": INIT_RANGE,
        },
        image_token_id=IMAGE,
        video_token_id=38,
    )
    config._attn_implementation = "eager"
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


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
    "qwen2_5_vl": Case(
        make=qwen,
        inputs=qwen_inputs(),
        named={"pixels": "pixel_values"},
        derive=qwen_plans,
        generate={"greedy": GREEDY, "beam": BEAM},
        prompts=qwen_inputs(left=True),
    ),
}
