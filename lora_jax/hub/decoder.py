"""Llama, Mistral, Qwen, Gemma and Mixtral as the Hugging Face hub stores them."""

from collections.abc import Mapping
from typing import Any

from lora_jax.hub.fields import read_fields
from lora_jax.hub.gpt2 import special_ids
from lora_jax.hub.names import Names, Stored, linear
from lora_jax.hub.rope import read_rope
from lora_jax.models.decoder import DecoderConfig
from lora_jax.models.rope import Rope

_FIELDS = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "max_length": "max_position_embeddings",
    "eps": "rms_norm_eps",
}

# Of each family what its config.json leaves unsaid.
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "mixtral": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
    "qwen3_moe": {"qk_norm": True},
    "gemma2": {"norm_from_one": True, "out_norms": True, "tied": True},
    "gemma3_text": {"norm_from_one": True, "out_norms": True, "tied": True, "qk_norm": True},
}

# Gemma's files leave out whatever has the default value of the original implementation.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 256, "rms_norm_eps": 1e-6, "max_position_embeddings": 8192},
    "gemma3_text": {
        "head_dim": 256,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 131_072,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 262_208,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 1,
    },
}

# Every so many layers one has no window, in configs that do not list their layers.
_PERIODS = {"gemma2": 2, "gemma3_text": 6}


def read_config(fields: Mapping[str, Any], **options: Any) -> DecoderConfig:
    """Makes the config of a decoder from the fields of its config.json.

    Args:
        fields: the content of config.json, or of the part of it that describes the text model.
        **options: fields of `DecoderConfig` that the file does not decide, such as `scan`.

    Returns:
        The config.

    Raises:
        ValueError: a field is missing, or asks for what the decoder does not compute.
    """
    if fields["model_type"] == "gemma3":  # of the multimodal model the text model is read
        fields = {**fields.get("text_config", {}), "model_type": "gemma3_text"}
    family = fields["model_type"]
    fields = _DEFAULTS.get(family, {}) | dict(fields)
    sizes = read_fields(fields, _FIELDS)
    _check_supported(fields)
    heads, dim = fields["num_attention_heads"], fields["hidden_size"]
    settings: dict[str, Any] = {
        "model_type": family,
        "kv_heads": fields.get("num_key_value_heads") or heads,
        "head_dim": fields.get("head_dim") or dim // heads,
        "ff_dim": fields.get("moe_intermediate_size") or fields.get("intermediate_size"),
        "activation": fields.get("hidden_activation") or fields.get("hidden_act", "silu"),
        "mlp_bias": bool(fields.get("mlp_bias")),
        "tied": False,
        **_biases(fields),
        **_ropes(fields),
        **_windows(fields),
        **_experts(fields),
        **_FAMILIES[family],
    }
    if family.startswith("gemma"):
        settings |= _gemma(fields)
    if "tie_word_embeddings" in fields:
        settings["tied"] = fields["tie_word_embeddings"]
    return DecoderConfig(**(sizes | settings | special_ids(fields) | options))


def _check_supported(fields: Mapping[str, Any]) -> None:
    if fields.get("use_bidirectional_attention"):
        raise ValueError("use_bidirectional_attention is true, but only causal decoders are built")
    if fields.get("mlp_only_layers") or fields.get("decoder_sparse_step", 1) != 1:
        raise ValueError(
            "mlp_only_layers or decoder_sparse_step leave some layers without experts; supported "
            "are experts in every layer"
        )
    if not fields.get("intermediate_size") and not fields.get("moe_intermediate_size"):
        raise ValueError("lacks intermediate_size")


def _biases(fields: Mapping[str, Any]) -> dict[str, bool]:
    bias = bool(fields.get("attention_bias"))
    return {"qkv_bias": bias, "o_bias": bias}


def _ropes(fields: Mapping[str, Any]) -> dict[str, Rope | None]:
    """One set of rotary positions, or with Gemma 3 one more for layers with a window."""
    parameters = fields.get("rope_parameters") or {}
    if fields["model_type"] != "gemma3_text":
        return {"rope": read_rope(fields)}
    if "full_attention" in parameters:
        wide, near = (
            read_rope({**fields, "rope_parameters": parameters[kind]})
            for kind in ("full_attention", "sliding_attention")
        )
        return {"rope": wide, "local_rope": near}
    local = Rope(theta=fields.get("rope_local_base_freq", 10_000.0))
    return {"rope": read_rope({"rope_theta": 1_000_000.0} | dict(fields)), "local_rope": local}


def _windows(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Which layers have a window; older files say it by a switch, a first layer or a period."""
    family, layers = fields["model_type"], fields["num_hidden_layers"]
    window = fields.get("sliding_window")
    if "use_sliding_window" in fields and not fields["use_sliding_window"]:
        window = None
    if not window:
        return {}
    kinds = fields.get("layer_types")
    if kinds is not None:
        windowed = [kind == "sliding_attention" for kind in kinds]
    elif family in _PERIODS:
        period = fields.get("sliding_window_pattern", _PERIODS[family])
        windowed = [(i + 1) % period != 0 for i in range(layers)]
    else:
        first = fields.get("max_window_layers", 0)
        windowed = [i >= first for i in range(layers)]
    return {"window": window, "windowed": tuple(windowed)}


def _experts(fields: Mapping[str, Any]) -> dict[str, Any]:
    experts = fields.get("num_local_experts") or fields.get("num_experts")
    if not experts:
        return {}
    return {
        "experts": experts,
        "experts_per_token": fields["num_experts_per_tok"],
        "experts_normalized": fields.get("norm_topk_prob", fields["model_type"] == "mixtral"),
    }


def _gemma(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "embed_scale": fields["hidden_size"] ** 0.5,
        "query_scale": fields.get("query_pre_attn_scalar", 256) ** -0.5,
        "score_cap": fields.get("attn_logit_softcapping"),
        "logit_cap": fields.get("final_logit_softcapping"),
        "activation": fields.get("hidden_activation") or "gelu_pytorch_tanh",
    }


def _norm(path: str, name: str) -> Stored:
    return Stored(f"{path}/scale", f"{name}.weight")


_LAYER = "layers.{layer}"


def names(config: DecoderConfig) -> Names:
    """The table of tensors of a decoder."""
    return Names(
        # Files of multimodal models hold their text model under a name of its own.
        prefixes=("language_model.", "model.language_model.", "model."),
        stored=(
            Stored("embed/embedding", "embed_tokens.weight"),
            *linear("layers/q_proj", f"{_LAYER}.self_attn.q_proj"),
            *linear("layers/k_proj", f"{_LAYER}.self_attn.k_proj"),
            *linear("layers/v_proj", f"{_LAYER}.self_attn.v_proj"),
            *linear("layers/o_proj", f"{_LAYER}.self_attn.o_proj"),
            _norm("layers/q_norm", f"{_LAYER}.self_attn.q_norm"),
            _norm("layers/k_norm", f"{_LAYER}.self_attn.k_norm"),
            *linear("layers/gate_proj", f"{_LAYER}.mlp.gate_proj"),
            *linear("layers/up_proj", f"{_LAYER}.mlp.up_proj"),
            *linear("layers/down_proj", f"{_LAYER}.mlp.down_proj"),
            *_layer_norms(config),
            *_expert_names(config),
            _norm("norm", "norm"),
            Stored("lm_head/kernel", "lm_head.weight", transpose=True),
        ),
        unused=(
            r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",  # in older files
            r"lm_head\.weight",  # the embedding again, where the head is tied
            r"(model\.)?(vision_tower|multi_modal_projector)\..+",  # Gemma 3's eyes
        ),
    )


def _layer_norms(config: DecoderConfig) -> tuple[Stored, ...]:
    first = _norm("layers/attention_norm", f"{_LAYER}.input_layernorm")
    second = f"{_LAYER}.post_attention_layernorm"
    if not config.out_norms:
        return first, _norm("layers/mlp_norm", second)
    return (
        first,
        _norm("layers/attention_out_norm", second),
        _norm("layers/mlp_norm", f"{_LAYER}.pre_feedforward_layernorm"),
        _norm("layers/mlp_out_norm", f"{_LAYER}.post_feedforward_layernorm"),
    )


def _expert_names(config: DecoderConfig) -> tuple[Stored, ...]:
    mixtral = config.model_type == "mixtral"
    block = f"{_LAYER}.block_sparse_moe" if mixtral else f"{_LAYER}.mlp"
    parts = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    ours = ("gate_proj", "up_proj", "down_proj")
    return (
        Stored("layers/experts/router/kernel", f"{block}.gate.weight", transpose=True),
        *(
            Stored(
                f"layers/experts/{path}/kernel",
                f"{block}.experts.{{expert}}.{part}.weight",
                transpose=True,
            )
            for path, part in zip(ours, parts, strict=True)
        ),
    )
