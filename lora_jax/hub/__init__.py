"""Files of pretrained models: Hugging Face checkpoints to params, texts to token ids."""

from lora_jax.hub.abstract import PUBLISHED_SHAPES, abstract_model
from lora_jax.hub.encoded import Encoded
from lora_jax.hub.files import find_adapter, find_model
from lora_jax.hub.hashes import hash_file, hash_params
from lora_jax.hub.images import ImageProcessor
from lora_jax.hub.load import Pretrained, load_model
from lora_jax.hub.patches import Patches, PatchProcessor
from lora_jax.hub.peft_lift import lift_peft, load_peft_config
from lora_jax.hub.peft_load import load_peft
from lora_jax.hub.peft_save import save_peft
from lora_jax.hub.preprocessing import read_image_processor
from lora_jax.hub.processor import Processor, Prompt
from lora_jax.hub.save import save_model
from lora_jax.hub.stream import TextStream
from lora_jax.hub.tokenizer import Tokenizer

__all__ = [
    "PUBLISHED_SHAPES",
    "Encoded",
    "ImageProcessor",
    "PatchProcessor",
    "Patches",
    "Pretrained",
    "Processor",
    "Prompt",
    "TextStream",
    "Tokenizer",
    "abstract_model",
    "find_adapter",
    "find_model",
    "hash_file",
    "hash_params",
    "lift_peft",
    "load_model",
    "load_peft",
    "load_peft_config",
    "read_image_processor",
    "save_model",
    "save_peft",
]
