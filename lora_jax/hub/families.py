"""The families that can be read from Hugging Face files, by the model_type in config.json."""

from collections.abc import Callable
from typing import Any, NamedTuple

from lora_jax.hub import bert, clip, deberta, decoder, gpt2, llava, qwen2_5_vl, t5, vision
from lora_jax.hub.names import Names


class Family(NamedTuple):
    """What reading a family needs to know.

    Args:
        read_config: `read_config(fields of config.json, **options)` makes the config of the model.
        names: `names(config)` is the table of its tensors.
    """

    read_config: Callable[..., Any]
    names: Callable[[Any], Names]


_DECODER = Family(decoder.read_config, decoder.names)
_TOWER = Family(vision.read_config, vision.names)
_TWO_TOWERS = Family(clip.read_config, clip.names)

FAMILIES: dict[str, Family] = {
    "bert": Family(bert.read_config, bert.names),
    "clip": _TWO_TOWERS,
    "clip_vision_model": _TOWER,
    "deberta-v2": Family(deberta.read_config, deberta.names),
    "gemma2": _DECODER,
    "gemma3": _DECODER,
    "gemma3_text": _DECODER,
    "gpt2": Family(gpt2.read_config, gpt2.names),
    "llama": _DECODER,
    "llava": Family(llava.read_config, llava.names),
    "mistral": _DECODER,
    "mixtral": _DECODER,
    "qwen2": _DECODER,
    "qwen2_5_vl": Family(qwen2_5_vl.read_config, qwen2_5_vl.names),
    "qwen3": _DECODER,
    "qwen3_moe": _DECODER,
    "roberta": Family(bert.read_config, bert.names),
    "siglip": _TWO_TOWERS,
    "siglip_vision_model": _TOWER,
    "t5": Family(t5.read_config, t5.names),
    "vit": _TOWER,
}
