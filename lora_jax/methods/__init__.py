"""Methods: each describes ΔW in one small file."""

from lora_jax.methods.lora import LoRA

__all__ = ["LoRA"]
