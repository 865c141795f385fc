"""BERT and RoBERTa."""

from typing import Any

import numpy as np
from golden.case import INIT_RANGE, Case, Inputs, texts

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "initializer_range": INIT_RANGE,
}


def make(name: str, model_type: str, **fields: Any) -> Any:
    """A model of transformers with its random weights."""
    import transformers

    config = transformers.AutoConfig.for_model(model_type, **SIZES | fields)
    return getattr(transformers, name)(config)


def batch(types: int, pad_id: int = 0):
    """Four texts of 7, 5, 2 and 1 tokens, with types."""

    def inputs(rng: np.random.Generator) -> Inputs:
        made = texts(rng, SIZES["vocab_size"], 7, 5, 2, 1, pad_id=pad_id)
        kinds = rng.integers(0, types, made["input_ids"].shape).astype(np.int32)
        return made | {"token_type_ids": kinds * made["attention_mask"]}

    return inputs


TYPED = ("input_ids", "attention_mask", "token_type_ids")

CASES = {
    "bert_tanh": Case(
        make=lambda: make("BertModel", "bert", hidden_act="gelu_new", layer_norm_eps=1e-5),
        inputs=batch(2),
        arguments=TYPED,
        output="last_hidden_state",
    ),
}
