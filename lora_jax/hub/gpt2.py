"""GPT-2 as the Hugging Face hub stores it: fields of config.json, names of tensors."""

from collections.abc import Mapping
from typing import Any

from lora_jax.hub.fields import read_fields
from lora_jax.hub.names import Names, Stored, norm
from lora_jax.models.gpt2 import GPT2Config

_FIELDS = {
    "vocab_size": "vocab_size",
    "dim": "n_embd",
    "layers": "n_layer",
    "heads": "n_head",
    "positions": "n_positions",
    "activation": "activation_function",
    "eps": "layer_norm_epsilon",
}


def read_config(fields: Mapping[str, Any], **options: Any) -> GPT2Config:
    """Makes the config of a GPT-2 from the fields of its config.json.

    Args:
        fields: the content of config.json.
        **options: fields of `GPT2Config` that the file does not decide, such as `scan`.

    Returns:
        The config.

    Raises:
        ValueError: a field is missing, or asks for what the model does not compute.
    """
    sizes = read_fields(fields, _FIELDS)
    if fields.get("add_cross_attention"):
        raise ValueError("add_cross_attention is true, but only plain decoders are supported")
    return GPT2Config(
        **sizes,
        ff_dim=fields.get("n_inner") or 4 * fields["n_embd"],
        scale_scores=fields.get("scale_attn_weights", True),
        scale_scores_by_layer=fields.get("scale_attn_by_inverse_layer_idx", False),
        tied=fields.get("tie_word_embeddings", True),
        **special_ids(fields),
        **options,
    )


def special_ids(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The ids of a decoder's special tokens: padding, begin, and any number of ends."""
    ends = fields.get("eos_token_id")
    ends = () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)
    return {
        "pad_id": fields.get("pad_token_id"),
        "bos_id": fields.get("bos_token_id"),
        "eos_ids": ends,
    }


def _linear(path: str, name: str, part: tuple[int, int] = (0, 1)) -> tuple[Stored, Stored]:
    # Conv1D keeps its weight as [in, out], as we do.
    return Stored(f"{path}/kernel", f"{name}.weight", part=part), Stored(
        f"{path}/bias", f"{name}.bias", part=part
    )


def names(config: GPT2Config) -> Names:
    """The table of tensors; the fused query, key and value projection is split."""
    del config
    layer = "h.{layer}"
    return Names(
        prefixes=("transformer.",),
        stored=(
            Stored("embed/embedding", "wte.weight"),
            Stored("positions/embedding", "wpe.weight"),
            *norm("layers/attention_norm", f"{layer}.ln_1"),
            *_linear("layers/q_proj", f"{layer}.attn.c_attn", (0, 3)),
            *_linear("layers/k_proj", f"{layer}.attn.c_attn", (1, 3)),
            *_linear("layers/v_proj", f"{layer}.attn.c_attn", (2, 3)),
            *_linear("layers/o_proj", f"{layer}.attn.c_proj"),
            *norm("layers/mlp_norm", f"{layer}.ln_2"),
            *_linear("layers/fc1", f"{layer}.mlp.c_fc"),
            *_linear("layers/fc2", f"{layer}.mlp.c_proj"),
            *norm("norm", "ln_f"),
            Stored("lm_head/kernel", "lm_head.weight", transpose=True),
        ),
        # The causal mask was once saved as a tensor; a tied head is the embedding again.
        unused=(r"h\.\d+\.attn\.(masked_)?bias", r"lm_head\.weight"),
    )
