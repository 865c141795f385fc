"""LoRA and parameter-efficient fine-tuning as a transformation of JAX functions.

>>> import jax, jax.numpy as jnp
>>> import lora_jax as lora
>>> params = {"w": jnp.ones((4, 3))}
>>> lifted = lora.lift(lambda p, x: x @ p["w"], params, jnp.ones((2, 4)), targets=("w",),
...                    method=lora.LoRA(rank=2))
>>> factors = lifted.init(jax.random.key(0), params)
>>> lifted(params, factors, jnp.ones((2, 4))).shape
(2, 3)
"""

from lora_jax import hub, quantization
from lora_jax.adapters import (
    AdapterPool,
    combine,
    merge_report,
    reduce_intruders,
    stack,
    to_lora,
    unstack,
)
from lora_jax.api import count_parameters, lift
from lora_jax.lifting import Delta, DenseFallbackError, Factor, Lifted, Method, Site, Weight
from lora_jax.methods import (
    IA3,
    AdaLoRA,
    BitFit,
    DoRA,
    Full,
    GraLoRA,
    HiRA,
    LayerNormTuning,
    LoHa,
    LoKr,
    LoRA,
    LoRAFA,
    MiSS,
    TokenRows,
    VeRA,
    make_method,
)
from lora_jax.methods.initialisers import (
    EVA,
    CorDA,
    InputMoments,
    LoRAGA,
    OLoRA,
    Orthogonal,
    PiSSA,
    gather_gradients,
    gather_inputs,
    redistribute_ranks,
)
from lora_jax.quantization import loftq, quantize
from lora_jax.targets import ALL_LINEAR, BIASES, NORMS

__all__ = [
    "ALL_LINEAR",
    "BIASES",
    "EVA",
    "IA3",
    "NORMS",
    "AdaLoRA",
    "AdapterPool",
    "BitFit",
    "CorDA",
    "Delta",
    "DenseFallbackError",
    "DoRA",
    "Factor",
    "Full",
    "GraLoRA",
    "HiRA",
    "InputMoments",
    "LayerNormTuning",
    "Lifted",
    "LoHa",
    "LoKr",
    "LoRA",
    "LoRAFA",
    "LoRAGA",
    "Method",
    "MiSS",
    "OLoRA",
    "Orthogonal",
    "PiSSA",
    "Site",
    "TokenRows",
    "VeRA",
    "Weight",
    "combine",
    "count_parameters",
    "gather_gradients",
    "gather_inputs",
    "hub",
    "lift",
    "loftq",
    "make_method",
    "merge_report",
    "quantization",
    "quantize",
    "redistribute_ranks",
    "reduce_intruders",
    "stack",
    "to_lora",
    "unstack",
]
