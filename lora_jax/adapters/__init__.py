"""Trees of factors."""

from lora_jax.adapters.stack import stack, unstack

__all__ = ["stack", "unstack"]
