"""Pretrained architectures in Flax NNX; they know nothing of LoRA.

Outside this package a model is a function `apply(params, …)` and a nested dict of params.
"""

from lora_jax.models.bert import BertConfig
from lora_jax.models.heads import classify, init_classifier, normalize, pool, project
from lora_jax.models.registry import FAMILIES, Model, build, init

__all__ = [
    "FAMILIES",
    "BertConfig",
    "Model",
    "build",
    "classify",
    "init",
    "init_classifier",
    "normalize",
    "pool",
    "project",
]
