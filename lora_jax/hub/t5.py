"""T5 and Flan-T5 as the hub stores them: fields of config.json, names of tensors."""

from collections.abc import Mapping
from typing import Any

from lora_jax.hub.fields import read_fields
from lora_jax.hub.gpt2 import special_ids
from lora_jax.hub.names import Names, Stored
from lora_jax.models.t5_config import T5Config

_FIELDS = {
    "vocab_size": "vocab_size",
    "dim": "d_model",
    "encoder_layers": "num_layers",
    "heads": "num_heads",
    "head_dim": "d_kv",
    "ff_dim": "d_ff",
    "buckets": "relative_attention_num_buckets",
}


def read_config(fields: Mapping[str, Any], *, tied: bool | None = None, **options: Any) -> T5Config:
    """Makes the config of a T5 from the fields of its config.json.

    Args:
        fields: the content of config.json.
        tied: whether the output head is the embedding; None: where hidden states are scaled before
            it, as in the first T5 and not in version 1.1 and Flan-T5. The file does not say it:
            recent versions of transformers write that all heads are tied.
        **options: fields of `T5Config` that the file does not decide, such as `scan`.

    Returns:
        The config.

    Raises:
        ValueError: a field is missing, or asks for what the model does not compute.
    """
    sizes = read_fields(fields, _FIELDS)
    if not fields.get("is_encoder_decoder", True):
        raise ValueError("is_encoder_decoder is false, but only whole models are supported")
    scaled = fields.get("scale_decoder_outputs", fields.get("tie_word_embeddings") is not False)
    ids = special_ids(fields)
    pad_id = 0 if ids["pad_id"] is None else ids["pad_id"]
    start = fields.get("decoder_start_token_id")
    decoder_layers = fields.get("num_decoder_layers")
    return T5Config(
        **sizes,
        **_feed_forward(fields.get("feed_forward_proj", "relu")),
        layers=fields["num_layers"] if decoder_layers is None else decoder_layers,
        farthest=fields.get("relative_attention_max_distance", 128),
        eps=fields.get("layer_norm_epsilon", 1e-6),
        tied=scaled if tied is None else tied,
        scale_hidden=scaled,
        **ids | {"pad_id": pad_id},
        decoder_start_id=pad_id if start is None else start,
        **options,
    )


def _feed_forward(name: str) -> dict[str, Any]:
    """What "relu" or "gated-gelu" says of the feed-forward block."""
    *gate, activation = name.split("-")
    if gate not in ([], ["gated"]):
        raise ValueError(
            f"feed_forward_proj {name!r} is neither an activation nor 'gated-' before one"
        )
    # The approximate GELU, in this one case.
    activation = "gelu_new" if name == "gated-gelu" else activation
    return {"gated": bool(gate), "activation": activation}


def names(config: T5Config) -> Names:
    """The table of tensors."""
    del config
    encoder, decoder = "encoder.block.{layer}.layer", "decoder.block.{layer}.layer"
    bias = "SelfAttention.relative_attention_bias.weight"
    return Names(
        stored=(
            Stored("embed/embedding", "shared.weight"),
            Stored("encoder/relative/embedding", f"encoder.block.0.layer.0.{bias}"),
            *_attention("encoder/layers", f"{encoder}.0.SelfAttention"),
            Stored("encoder/layers/attention_norm/scale", f"{encoder}.0.layer_norm.weight"),
            *_mlp("encoder/layers", f"{encoder}.1"),
            Stored("encoder/norm/scale", "encoder.final_layer_norm.weight"),
            Stored("decoder/relative/embedding", f"decoder.block.0.layer.0.{bias}"),
            *_attention("decoder/layers", f"{decoder}.0.SelfAttention"),
            Stored("decoder/layers/attention_norm/scale", f"{decoder}.0.layer_norm.weight"),
            *_attention("decoder/layers/cross", f"{decoder}.1.EncDecAttention"),
            Stored("decoder/layers/cross_norm/scale", f"{decoder}.1.layer_norm.weight"),
            *_mlp("decoder/layers", f"{decoder}.2"),
            Stored("decoder/norm/scale", "decoder.final_layer_norm.weight"),
            Stored("lm_head/kernel", "lm_head.weight", transpose=True),
        ),
        unused=(
            r"(encoder|decoder)\.embed_tokens\.weight",  # the same as `shared`
            # Some files have this one, which nothing ever read.
            r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
        ),
    )


def _attention(path: str, name: str) -> tuple[Stored, ...]:
    return tuple(
        Stored(f"{path}/{kind}_proj/kernel", f"{name}.{kind}.weight", transpose=True)
        for kind in "qkvo"
    )


def _mlp(path: str, name: str) -> tuple[Stored, ...]:
    rows = {"fc1": "wi", "gate_proj": "wi_0", "up_proj": "wi_1", "fc2": "wo", "down_proj": "wo"}
    return (
        *(
            Stored(f"{path}/{ours}/kernel", f"{name}.DenseReluDense.{its}.weight", transpose=True)
            for ours, its in rows.items()
        ),
        Stored(f"{path}/mlp_norm/scale", f"{name}.layer_norm.weight"),
    )
