"""BERT and RoBERTa as the Hugging Face hub stores them: fields of config.json, names of tensors."""

from collections.abc import Mapping
from typing import Any

from lora_jax.hub.fields import read_fields
from lora_jax.hub.heads import read_head
from lora_jax.hub.names import Names, Stored, linear, norm
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


def read_config(
    fields: Mapping[str, Any], *, head: str | None = None, **options: Any
) -> BertConfig:
    """Makes the config of a BERT or RoBERTa from the fields of its config.json.

    Args:
        fields: the content of config.json.
        head: the head to read, or None.
        **options: fields of `BertConfig` that the file does not decide, such as `scan`.

    Returns:
        The config.

    Raises:
        ValueError: a field is missing, or asks for what the encoder does not compute.
    """
    sizes = read_fields(fields, _FIELDS)
    kind = fields.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise ValueError(f"position_embedding_type {kind!r} is not supported; only 'absolute' is")
    if fields.get("is_decoder"):
        raise ValueError("is_decoder is true, but only encoders are supported")
    model_type = fields["model_type"]
    return BertConfig(
        model_type=model_type,
        positions_skip_padding=model_type == "roberta",
        **sizes,
        **read_head(fields, head),
        **options,
    )


_LAYER = "encoder.layer.{layer}"

NAMES = Names(
    prefixes=("bert.", "roberta."),
    # Checkpoints converted from TensorFlow call the parameters of a norm gamma and beta.
    renames={r"LayerNorm\.gamma$": "LayerNorm.weight", r"LayerNorm\.beta$": "LayerNorm.bias"},
    stored=(
        Stored("embed/embedding", "embeddings.word_embeddings.weight"),
        Stored("positions/embedding", "embeddings.position_embeddings.weight"),
        Stored("types/embedding", "embeddings.token_type_embeddings.weight"),
        *norm("embed_norm", "embeddings.LayerNorm"),
        *linear("layers/q_proj", f"{_LAYER}.attention.self.query"),
        *linear("layers/k_proj", f"{_LAYER}.attention.self.key"),
        *linear("layers/v_proj", f"{_LAYER}.attention.self.value"),
        *linear("layers/o_proj", f"{_LAYER}.attention.output.dense"),
        *norm("layers/attention_norm", f"{_LAYER}.attention.output.LayerNorm"),
        *linear("layers/fc1", f"{_LAYER}.intermediate.dense"),
        *linear("layers/fc2", f"{_LAYER}.output.dense"),
        *norm("layers/output_norm", f"{_LAYER}.output.LayerNorm"),
        *linear("pooler", "pooler.dense"),
    ),
    unused=(
        r"embeddings\.position_ids",
        r"pooler\.dense\.(weight|bias)",
        r"(cls|lm_head|classifier|qa_outputs)\..+",
    ),
)


_BERT_POOLED = (*linear("head/dense", "pooler.dense"), *linear("head/out_proj", "classifier"))
_ROBERTA_POOLED = (
    *linear("head/dense", "classifier.dense"),
    *linear("head/out_proj", "classifier.out_proj"),
)

HEADS: dict[str, dict[str, tuple[Stored, ...]]] = {
    "bert": {
        "classification": _BERT_POOLED,
        "regression": _BERT_POOLED,
        "multiple_choice": _BERT_POOLED,
        "token_classification": linear("head/out_proj", "classifier"),
        "masked_lm": (
            *linear("head/dense", "cls.predictions.transform.dense"),
            *norm("head/norm", "cls.predictions.transform.LayerNorm"),
            Stored("head/bias", "cls.predictions.bias"),
        ),
    },
    "roberta": {
        "classification": _ROBERTA_POOLED,
        "regression": _ROBERTA_POOLED,
        "multiple_choice": _BERT_POOLED,
        "token_classification": linear("head/out_proj", "classifier"),
        "masked_lm": (
            *linear("head/dense", "lm_head.dense"),
            *norm("head/norm", "lm_head.layer_norm"),
            Stored("head/bias", "lm_head.bias"),
        ),
    },
}


def names(config: BertConfig) -> Names:
    """The table of tensors, with those of the head that the config asks for."""
    if config.head is None:
        return NAMES
    return NAMES._replace(stored=NAMES.stored + HEADS[config.model_type][config.head])
