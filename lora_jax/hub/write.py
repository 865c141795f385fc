"""The config.json of a model that was not read from files, and its tensors' names in full."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from lora_jax.hub.families import FAMILIES
from lora_jax.models.bert import BertConfig
from lora_jax.models.decoder import DecoderConfig
from lora_jax.models.gpt2 import GPT2Config
from lora_jax.models.rope import Rope

_DECODERS = {
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
_BERT_HEADS = {
    None: "Model",
    "classification": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "token_classification": "ForTokenClassification",
    "multiple_choice": "ForMultipleChoice",
    "masked_lm": "ForMaskedLM",
}


def write_config(config: Any) -> dict[str, Any]:
    """Makes the fields of a config.json: what `read_config` of the family reads as `config`.

    Args:
        config: a `BertConfig`, `GPT2Config` or `DecoderConfig`.

    Returns:
        The fields, as transformers understands them.

    Raises:
        ValueError: files of this family cannot be written, or cannot say what the config says.
    """
    write = _WRITERS.get(type(config))
    if write is None or config.model_type not in FAMILIES:
        known = ", ".join(kind.__name__ for kind in _WRITERS)
        raise ValueError(
            f"a {type(config).__name__} of {config.model_type!r} is saved only beside the files it "
            f"was loaded from; without files: {known}"
        )
    fields = {"model_type": config.model_type, "dtype": config.dtype, **write(config)}
    chosen = {name: getattr(config, name) for name in ("dtype", "scan", "remat")}
    if isinstance(config, BertConfig):
        chosen |= {"pooler": config.pooler, "head": config.head}
    read = FAMILIES[config.model_type].read_config(fields, **chosen)
    lost = [
        field.name
        for field in dataclasses.fields(config)
        if getattr(read, field.name) != getattr(config, field.name)
    ]
    if lost:
        raise ValueError(f"config.json of a {config.model_type!r} cannot say this {lost[0]}")
    return fields


def full_name(config: Any, name: str) -> str:
    """The name of a tensor in a fresh file, from its canonical name."""
    own = name.startswith(("lm_head.", "cls.", "classifier."))
    if isinstance(config, BertConfig):
        return name if own or config.head is None else f"{config.model_type}.{name}"
    return name if own else f"{'transformer' if isinstance(config, GPT2Config) else 'model'}.{name}"


def _write_bert(config: BertConfig) -> dict[str, Any]:
    kind = {"bert": "Bert", "roberta": "Roberta"}[config.model_type]
    fields = {
        "architectures": [kind + _BERT_HEADS[config.head]],
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ff_dim,
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.types,
        "pad_token_id": config.pad_id,
        "hidden_act": config.activation,
        "layer_norm_eps": config.eps,
    }
    if config.head in ("classification", "token_classification", "regression"):
        count = 1 if config.head == "regression" else config.classes
        fields["id2label"] = {str(i): f"LABEL_{i}" for i in range(count)}
        fields["label2id"] = {f"LABEL_{i}": i for i in range(count)}
    return fields


def _write_gpt2(config: GPT2Config) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_embd": config.dim,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.ff_dim,
        "n_positions": config.positions,
        "activation_function": config.activation,
        "layer_norm_epsilon": config.eps,
        "scale_attn_weights": config.scale_scores,
        "scale_attn_by_inverse_layer_idx": config.scale_scores_by_layer,
        "tie_word_embeddings": config.tied,
        **_special_ids(config),
    }


def _write_decoder(config: DecoderConfig) -> dict[str, Any]:
    family = config.model_type
    fields: dict[str, Any] = {
        "architectures": [_DECODERS[family]],
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ff_dim,
        "max_position_embeddings": config.max_length,
        "hidden_act": config.activation,
        "rms_norm_eps": config.eps,
        "attention_bias": config.o_bias,
        "mlp_bias": config.mlp_bias,
        "rope_parameters": _write_rope(config.rope),
        "sliding_window": config.window or None,
        "tie_word_embeddings": config.tied,
        **_special_ids(config),
    }
    if config.local_rope is not None:
        kinds = {"full_attention": config.rope, "sliding_attention": config.local_rope}
        fields["rope_parameters"] = {kind: _write_rope(rope) for kind, rope in kinds.items()}
    if family.startswith(("qwen", "gemma")):
        windowed = config.windowed or (False,) * config.layers
        kinds_of = {True: "sliding_attention", False: "full_attention"}
        fields["layer_types"] = [kinds_of[one] for one in windowed]
    if family.startswith("qwen"):
        fields["use_sliding_window"] = config.window > 0
    if family.startswith("gemma"):
        scale = config.head_dim**-0.5 if config.query_scale is None else config.query_scale
        fields |= {
            "hidden_activation": config.activation,
            "query_pre_attn_scalar": round(scale**-2),
            "attn_logit_softcapping": config.score_cap,
            "final_logit_softcapping": config.logit_cap,
        }
    return fields | _write_experts(config)


def _write_experts(config: DecoderConfig) -> dict[str, Any]:
    if not config.experts:
        return {}
    if config.model_type == "mixtral":
        return {
            "num_local_experts": config.experts,
            "num_experts_per_tok": config.experts_per_token,
        }
    return {
        "num_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "moe_intermediate_size": config.ff_dim,
        "norm_topk_prob": config.experts_normalized,
    }


def _write_rope(rope: Rope) -> dict[str, Any]:
    fields: dict[str, Any] = {"rope_type": rope.scaling, "rope_theta": rope.theta}
    if rope.scaling == "default":
        return fields
    fields |= {"factor": rope.factor, "original_max_position_embeddings": rope.original_length}
    if rope.scaling == "llama3":
        fields |= {"low_freq_factor": rope.low, "high_freq_factor": rope.high}
    if rope.scaling == "yarn":
        fields |= {
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
            "attention_factor": rope.magnitude,
            "truncate": rope.truncate,
        }
    return fields


def _special_ids(config: GPT2Config | DecoderConfig) -> dict[str, Any]:
    ends = list(config.eos_ids)
    return {
        "pad_token_id": config.pad_id,
        "bos_token_id": config.bos_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
    }


_WRITERS: Mapping[type, Callable[[Any], dict[str, Any]]] = {
    BertConfig: _write_bert,
    GPT2Config: _write_gpt2,
    DecoderConfig: _write_decoder,
}
