"""Where A and B start: from W itself, from the inputs of W, or from gradients at W."""

from lora_jax.methods.initialisers.corda import CorDA
from lora_jax.methods.initialisers.eva import EVA, ranks_by_variance, redistribute_ranks
from lora_jax.methods.initialisers.gather import InputMoments, gather_gradients, gather_inputs
from lora_jax.methods.initialisers.lora_ga import LoRAGA
from lora_jax.methods.initialisers.olora import OLoRA
from lora_jax.methods.initialisers.orthogonal import Orthogonal
from lora_jax.methods.initialisers.pissa import PiSSA
from lora_jax.methods.initialisers.rebased import Rebased

__all__ = [
    "EVA",
    "CorDA",
    "InputMoments",
    "LoRAGA",
    "OLoRA",
    "Orthogonal",
    "PiSSA",
    "Rebased",
    "gather_gradients",
    "gather_inputs",
    "ranks_by_variance",
    "redistribute_ranks",
]
