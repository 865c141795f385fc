"""The classes of transformers that hold our models: how they call modules, what they are for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

BARE = "FEATURE_EXTRACTION"
AUTO = "auto"


class Class(NamedTuple):
    """How the classes of a family that have a head name their modules.

    Args:
        backbone: what stands before the names of the backbone.
        beside: a regular expression of names that lie beside the backbone.
        renames: from names in checkpoints to names of modules, in this order.
    """

    backbone: str = ""
    beside: str = r"(lm_head|score|classifier|qa_outputs|cls)\."
    renames: Mapping[str, str] = {}


_VIT = {
    r"^encoder\.layer\.": "layers.",
    r"attention\.attention\.query": "attention.q_proj",
    r"attention\.attention\.key": "attention.k_proj",
    r"attention\.attention\.value": "attention.v_proj",
    r"attention\.output\.dense": "attention.o_proj",
    r"intermediate\.dense": "mlp.fc1",
    r"\.output\.dense": ".mlp.fc2",
}
_QWEN_VL = {r"^model\.lm_head\.": "lm_head.", r"^model\.": "language_model."}
CLASSES = {
    "bert": Class("bert."),
    "clip_vision_model": Class("vision_model.", r"visual_projection\."),
    "deberta-v2": Class("deberta.", r"(pooler|classifier|cls|lm_predictions|qa_outputs)\."),
    "gemma2": Class("model."),
    "gemma3_text": Class("model."),
    "gpt2": Class("transformer."),
    "llama": Class("model."),
    "llava": Class(
        "model.", r"language_model\.lm_head\.", {r"^language_model\.lm_head": "lm_head"}
    ),
    "mistral": Class("model."),
    "mixtral": Class("model.", renames={r"\.block_sparse_moe\.": ".mlp."}),
    "qwen2": Class("model."),
    "qwen2_5_vl": Class("model.", r"model\.lm_head\.", _QWEN_VL),
    "qwen3": Class("model."),
    "qwen3_moe": Class("model."),
    "roberta": Class("roberta."),
    "vit": Class("vit.", renames=_VIT),
}

_TOWERS = ("clip_vision_model", "siglip_vision_model", "vit")

_TASKS = {
    "classification": "SEQ_CLS",
    "regression": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
}


def is_bare(config: Any, shapes: Mapping[str, Any]) -> bool:
    """Whether a model is the bare backbone of its family."""
    if config.model_type in _TOWERS:
        return not {"projection/kernel", "head/out_proj/kernel"} & set(shapes)
    return getattr(config, "head", "") is None


def tied_head(config: Any) -> str | None:
    """The name of the module that multiplies with the embedding once more; None without one."""
    if getattr(config, "head", None) == "masked_lm":
        return {"bert": "cls.predictions.decoder", "roberta": "lm_head.decoder"}.get(
            config.model_type
        )
    decoder = getattr(config, "language", config)
    return "lm_head" if getattr(decoder, "tied", False) else None


def task_of(config: Any) -> str | None:
    """PEFT's name of what a model is for; None where it has none."""
    if config.model_type in _TOWERS:
        return None  # PEFT's tasks are those of texts
    if hasattr(config, "head"):
        return BARE if config.head is None else _TASKS.get(config.head)
    if config.model_type == "t5":
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if hasattr(config, "eos_ids") else None
