"""Pretrained architectures in Flax NNX; they know nothing of LoRA.

Outside this package a model is a function `apply(params, …)` and a nested dict of params.
"""

from lora_jax.models.bert import BertConfig
from lora_jax.models.cache import Cache, RowCaches
from lora_jax.models.clip import ClipConfig
from lora_jax.models.deberta_config import DebertaConfig
from lora_jax.models.decoder import DecoderConfig
from lora_jax.models.gpt2 import GPT2Config, gpt3_config
from lora_jax.models.heads import classify, init_classifier, normalize, pool, project
from lora_jax.models.llava import LlavaConfig
from lora_jax.models.partition import partition_rules
from lora_jax.models.qwen2_5_vl import QwenVLConfig
from lora_jax.models.qwen2_5_vl_plan import plan_positions, plan_vision
from lora_jax.models.registry import FAMILIES, Model, build, init, init_head, new_cache
from lora_jax.models.t5_cache import Seq2SeqCache
from lora_jax.models.t5_config import T5Config
from lora_jax.models.unstack import Unstacked, restack, unstack
from lora_jax.models.vision import VisionConfig

__all__ = [
    "FAMILIES",
    "BertConfig",
    "Cache",
    "ClipConfig",
    "DebertaConfig",
    "DecoderConfig",
    "GPT2Config",
    "LlavaConfig",
    "Model",
    "QwenVLConfig",
    "RowCaches",
    "Seq2SeqCache",
    "T5Config",
    "Unstacked",
    "VisionConfig",
    "build",
    "classify",
    "gpt3_config",
    "init",
    "init_classifier",
    "init_head",
    "new_cache",
    "normalize",
    "partition_rules",
    "plan_positions",
    "plan_vision",
    "pool",
    "project",
    "restack",
    "unstack",
]
