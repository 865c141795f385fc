"""LoRA as a transformation of a JAX function. Knows JAX; knows no method, no model, no Flax."""

from lora_jax.lifting.algebra import Delta, Factor
from lora_jax.lifting.lift import DenseFallbackError, Lifted, lift_weights, run_packed
from lora_jax.lifting.norms import adapted_norm
from lora_jax.lifting.packed import Packed, is_packed
from lora_jax.lifting.program import path_name
from lora_jax.lifting.roles import Weight
from lora_jax.lifting.site import Method, Site, carried_axes, is_elementwise

__all__ = [
    "Delta",
    "DenseFallbackError",
    "Factor",
    "Lifted",
    "Method",
    "Packed",
    "Site",
    "Weight",
    "adapted_norm",
    "carried_axes",
    "is_elementwise",
    "is_packed",
    "lift_weights",
    "path_name",
    "run_packed",
]
