"""BERT and RoBERTa as the Hugging Face hub stores them: fields of config.json, names of tensors."""

from collections.abc import Mapping
from typing import Any

from lora_jax.hub.names import Names, Stored
from lora_jax.models.bert import BertConfig

_FIELDS = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ff_dim": "intermediate_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
    "pad_id": "pad_token_id",
    "activation": "hidden_act",
    "eps": "layer_norm_eps",
}


def read_config(fields: Mapping[str, Any], **options: Any) -> BertConfig:
    """Makes the config of a BERT or RoBERTa from the fields of its config.json.

    Args:
        fields: the content of config.json.
        **options: fields of `BertConfig` that the file does not decide, such as `scan`.

    Returns:
        The config.

    Raises:
        ValueError: a field is missing, or asks for what the encoder does not compute.
    """
    missing = [name for name in _FIELDS.values() if name not in fields]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    kind = fields.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise ValueError(f"position_embedding_type {kind!r} is not supported; only 'absolute' is")
    if fields.get("is_decoder"):
        raise ValueError("is_decoder is true, but only encoders are supported")
    sizes = {ours: fields[theirs] for ours, theirs in _FIELDS.items()}
    model_type = fields["model_type"]
    return BertConfig(
        model_type=model_type,
        positions_skip_padding=model_type == "roberta",
        **sizes,
        **options,
    )


def _linear(path: str, name: str) -> tuple[Stored, Stored]:
    # torch.nn.Linear keeps its weight as [out, in].
    return Stored(f"{path}/kernel", f"{name}.weight", transpose=True), Stored(
        f"{path}/bias", f"{name}.bias"
    )


def _norm(path: str, name: str) -> tuple[Stored, Stored]:
    return Stored(f"{path}/scale", f"{name}.weight"), Stored(f"{path}/bias", f"{name}.bias")


_LAYER = "encoder.layer.{layer}"

NAMES = Names(
    prefixes=("bert.", "roberta."),
    # Checkpoints converted from TensorFlow call the parameters of a norm gamma and beta.
    renames={r"LayerNorm\.gamma$": "LayerNorm.weight", r"LayerNorm\.beta$": "LayerNorm.bias"},
    stored=(
        Stored("embed/embedding", "embeddings.word_embeddings.weight"),
        Stored("positions/embedding", "embeddings.position_embeddings.weight"),
        Stored("types/embedding", "embeddings.token_type_embeddings.weight"),
        *_norm("embed_norm", "embeddings.LayerNorm"),
        *_linear("layers/q_proj", f"{_LAYER}.attention.self.query"),
        *_linear("layers/k_proj", f"{_LAYER}.attention.self.key"),
        *_linear("layers/v_proj", f"{_LAYER}.attention.self.value"),
        *_linear("layers/o_proj", f"{_LAYER}.attention.output.dense"),
        *_norm("layers/attention_norm", f"{_LAYER}.attention.output.LayerNorm"),
        *_linear("layers/fc1", f"{_LAYER}.intermediate.dense"),
        *_linear("layers/fc2", f"{_LAYER}.output.dense"),
        *_norm("layers/output_norm", f"{_LAYER}.output.LayerNorm"),
        *_linear("pooler", "pooler.dense"),
    ),
    unused=(
        r"embeddings\.position_ids",
        r"pooler\.dense\.(weight|bias)",
        r"(cls|lm_head|classifier|qa_outputs)\..+",
    ),
)


def names(config: BertConfig) -> Names:
    """The table of tensors, which is the same for every config."""
    del config
    return NAMES
