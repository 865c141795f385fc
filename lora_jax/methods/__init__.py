"""Methods: each describes ΔW in one small file."""

from lora_jax.methods.dora import DoRA
from lora_jax.methods.full import Full
from lora_jax.methods.lora import LoRA

__all__ = ["DoRA", "Full", "LoRA"]
