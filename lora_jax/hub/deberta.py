"""DeBERTa v2 and v3 as the hub stores them: fields of config.json, names of tensors."""

from collections.abc import Mapping
from typing import Any

from lora_jax.hub.fields import read_fields
from lora_jax.hub.heads import read_head
from lora_jax.hub.names import Names, Stored, linear, norm
from lora_jax.models.deberta_config import DebertaConfig

_FIELDS = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ff_dim": "intermediate_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
    "activation": "hidden_act",
    "eps": "layer_norm_eps",
}
# Files leave these out; their defaults are those of transformers.
_DEFAULTS: dict[str, tuple[str, Any]] = {
    "absolute": ("position_biased_input", True),
    "relative": ("relative_attention", False),
    "share_projections": ("share_att_key", False),
    "conv_width": ("conv_kernel_size", 0),
    "conv_groups": ("conv_groups", 1),
    "conv_activation": ("conv_act", "tanh"),
    "pooler_activation": ("pooler_hidden_act", "gelu"),
    "legacy": ("legacy", True),
}
_SCORES = ("c2p", "p2c")
_NORMS = ("none", "layer_norm")


def read_config(
    fields: Mapping[str, Any], *, head: str | None = None, **options: Any
) -> DebertaConfig:
    """Makes the config of a DeBERTa v2 or v3 from the fields of its config.json.

    Args:
        fields: the content of config.json.
        head: the head to read, or None.
        **options: fields of `DebertaConfig` that the file does not decide, such as `scan`.

    Returns:
        The config.

    Raises:
        ValueError: a field is missing, or asks for what the encoder does not compute.
    """
    sizes = read_fields(fields, _FIELDS)
    dim, heads = fields["hidden_size"], fields["num_attention_heads"]
    _check_size(fields, "pooler_hidden_size", dim)
    _check_size(fields, "attention_head_size", dim // heads)
    scores = _split(fields, "pos_att_type", "", _SCORES)
    farthest = fields.get("max_relative_positions", -1)
    return DebertaConfig(
        **sizes,
        **{ours: fields.get(name, default) for ours, (name, default) in _DEFAULTS.items()},
        embed_dim=fields.get("embedding_size", dim),
        pad_id=0 if fields.get("pad_token_id") is None else fields["pad_token_id"],
        content_to_position="c2p" in scores,
        position_to_content="p2c" in scores,
        buckets=max(fields.get("position_buckets", -1), 0),
        farthest=fields["max_position_embeddings"] if farthest < 1 else farthest,
        relative_norm="layer_norm" in _split(fields, "norm_rel_ebd", "none", _NORMS),
        **read_head(fields, head),
        **options,
    )


def _check_size(fields: Mapping[str, Any], name: str, wanted: int) -> None:
    found = fields.get(name, wanted)
    if found != wanted:
        raise ValueError(f"{name} is {found}, but only {wanted} fits the other sizes")


def _split(fields: Mapping[str, Any], name: str, default: str, known: tuple[str, ...]) -> list[str]:
    """Reads a list, which older files write as words between bars."""
    value = fields.get(name) or default
    words = value.lower().split("|") if isinstance(value, str) else value
    words = [word.strip() for word in words if word.strip()]
    for word in words:
        if word not in known:
            raise ValueError(f"{name} {word!r} is not supported; known: {', '.join(known)}")
    return words


_LAYER = "encoder.layer.{layer}"
_ATTENTION = f"{_LAYER}.attention"
_LEGACY_HEAD = "cls.predictions.transform"
_NEW_HEAD = "lm_predictions.lm_head"

STORED = (
    Stored("embed/embedding", "embeddings.word_embeddings.weight"),
    Stored("positions/embedding", "embeddings.position_embeddings.weight"),
    Stored("types/embedding", "embeddings.token_type_embeddings.weight"),
    Stored("embed_proj/kernel", "embeddings.embed_proj.weight", transpose=True),
    *norm("embed_norm", "embeddings.LayerNorm"),
    Stored("relative/embedding", "encoder.rel_embeddings.weight"),
    *norm("relative_norm", "encoder.LayerNorm"),
    # The file has [out, in, width].
    *linear("conv", "encoder.conv.conv"),
    *norm("conv/norm", "encoder.conv.LayerNorm"),
    *linear("layers/q_proj", f"{_ATTENTION}.self.query_proj"),
    *linear("layers/k_proj", f"{_ATTENTION}.self.key_proj"),
    *linear("layers/v_proj", f"{_ATTENTION}.self.value_proj"),
    *linear("layers/pos_key_proj", f"{_ATTENTION}.self.pos_key_proj"),
    *linear("layers/pos_query_proj", f"{_ATTENTION}.self.pos_query_proj"),
    *linear("layers/o_proj", f"{_ATTENTION}.output.dense"),
    *norm("layers/attention_norm", f"{_ATTENTION}.output.LayerNorm"),
    *linear("layers/fc1", f"{_LAYER}.intermediate.dense"),
    *linear("layers/fc2", f"{_LAYER}.output.dense"),
    *norm("layers/output_norm", f"{_LAYER}.output.LayerNorm"),
)
_POOLED = (*linear("head/dense", "pooler.dense"), *linear("head/out_proj", "classifier"))


def names(config: DebertaConfig) -> Names:
    """The table of tensors, with those of the head that the config asks for."""
    table = Names(
        prefixes=("deberta.",),
        stored=STORED,
        unused=(
            r"embeddings\.(position_ids|position_embeddings\.weight)",
            r"pooler\.dense\.(weight|bias)",
            r"(cls|lm_predictions|mask_predictions|classifier|qa_outputs)\..+",
            *(() if config.relative else (r"encoder\.LayerNorm\..+",)),
        ),
    )
    if config.head is None:
        return table
    if config.head == "token_classification":
        return table._replace(stored=STORED + linear("head/out_proj", "classifier"))
    if config.head != "masked_lm":
        return table._replace(stored=STORED + _POOLED)
    # One head under two names: which of them a file bears, its config does not always tell.
    old, new = (_NEW_HEAD, _LEGACY_HEAD) if config.legacy else (_LEGACY_HEAD, _NEW_HEAD)
    old_bias, new_bias = (path.removesuffix(".transform") for path in (old, new))
    return table._replace(
        stored=(
            *STORED,
            *linear("head/dense", f"{new}.dense"),
            *norm("head/norm", f"{new}.LayerNorm"),
            Stored("head/bias", f"{new_bias}.bias"),
        ),
        renames={
            rf"^{old_bias}\.bias$": f"{new_bias}.bias",
            rf"^{old}\.(dense|LayerNorm)\.": rf"{new}.\1.",
        },
    )
