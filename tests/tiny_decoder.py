"""The sizes of the smallest decoder that has all that decoders have."""

from lora_jax import models


def tiny_decoder(**fields):
    """Its config: two layers, two heads that share their keys; `fields` override some."""
    sizes = {"vocab_size": 40, "dim": 16, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 8}
    sizes |= {"ff_dim": 24, "max_length": 32, "eos_ids": (), "scan": False}
    return models.DecoderConfig(**sizes | fields)
