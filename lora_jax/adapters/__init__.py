"""Trees of factors: many over one base, arithmetic between them, conversion and merging."""

from lora_jax.adapters.arithmetic import combine, scale
from lora_jax.adapters.convert import to_lora
from lora_jax.adapters.intruders import Reduced, reduce_intruders
from lora_jax.adapters.joint import Joint, join_methods
from lora_jax.adapters.merge import MergeReport, merge_report
from lora_jax.adapters.pool import AdapterPool
from lora_jax.adapters.route import Routed, gather
from lora_jax.adapters.stack import common_shapes, crop, pad, stack, unstack

__all__ = [
    "AdapterPool",
    "Joint",
    "MergeReport",
    "Reduced",
    "Routed",
    "combine",
    "common_shapes",
    "crop",
    "gather",
    "join_methods",
    "merge_report",
    "pad",
    "reduce_intruders",
    "scale",
    "stack",
    "to_lora",
    "unstack",
]
