"""Pretrained architectures in Flax NNX; they know nothing of LoRA.

Outside this package a model is a function `apply(params, …)` and a nested dict of params.
"""

from lora_jax.models.bert import BertConfig
from lora_jax.models.cache import Cache
from lora_jax.models.gpt2 import GPT2Config, gpt3_config
from lora_jax.models.heads import classify, init_classifier, normalize, pool, project
from lora_jax.models.registry import FAMILIES, Model, build, init, new_cache

__all__ = [
    "FAMILIES",
    "BertConfig",
    "Cache",
    "GPT2Config",
    "Model",
    "build",
    "classify",
    "gpt3_config",
    "init",
    "init_classifier",
    "new_cache",
    "normalize",
    "pool",
    "project",
]
