"""Frozen weights in int8 and NF4, made dense only where they are used."""

from lora_jax.quantization.accept import accept_quantized
from lora_jax.quantization.int8 import Int8
from lora_jax.quantization.loftq import loftq
from lora_jax.quantization.nf4 import Nf4
from lora_jax.quantization.placement import packed_shardings
from lora_jax.quantization.tree import KINDS, choose, quantize, quantize_array

__all__ = [
    "KINDS",
    "Int8",
    "Nf4",
    "accept_quantized",
    "choose",
    "loftq",
    "packed_shardings",
    "quantize",
    "quantize_array",
]
