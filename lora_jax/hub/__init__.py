"""Files of pretrained models: Hugging Face checkpoints to params, texts to token ids."""

from lora_jax.hub.hashes import hash_file, hash_params
from lora_jax.hub.load import Pretrained, load_model
from lora_jax.hub.save import save_model
from lora_jax.hub.tokenizer import Encoded, TextStream, Tokenizer

__all__ = [
    "Encoded",
    "Pretrained",
    "TextStream",
    "Tokenizer",
    "hash_file",
    "hash_params",
    "load_model",
    "save_model",
]
