"""Methods: each describes ΔW in one small file."""

from lora_jax.methods.adalora import AdaLoRA, orthogonality
from lora_jax.methods.bitfit import BitFit
from lora_jax.methods.by_name import METHODS, make_method, method_fields
from lora_jax.methods.dora import DoRA
from lora_jax.methods.full import Full
from lora_jax.methods.fused import Fused
from lora_jax.methods.gralora import GraLoRA
from lora_jax.methods.hira import HiRA
from lora_jax.methods.ia3 import IA3
from lora_jax.methods.layer_norm_tuning import LayerNormTuning
from lora_jax.methods.loha import LoHa
from lora_jax.methods.lokr import LoKr
from lora_jax.methods.lora import LoRA
from lora_jax.methods.lora_fa import LoRAFA, project_gradients
from lora_jax.methods.miss import MiSS
from lora_jax.methods.rank_allocation import (
    Allocation,
    Budget,
    allocate,
    drop_ranks,
    init_allocation,
)
from lora_jax.methods.token_rows import TokenRows
from lora_jax.methods.vera import VeRA

__all__ = [
    "IA3",
    "METHODS",
    "AdaLoRA",
    "Allocation",
    "BitFit",
    "Budget",
    "DoRA",
    "Full",
    "Fused",
    "GraLoRA",
    "HiRA",
    "LayerNormTuning",
    "LoHa",
    "LoKr",
    "LoRA",
    "LoRAFA",
    "MiSS",
    "TokenRows",
    "VeRA",
    "allocate",
    "drop_ranks",
    "init_allocation",
    "make_method",
    "method_fields",
    "orthogonality",
    "project_gradients",
]
