"""BERT and RoBERTa, bare and with every head, and every activation."""

from typing import Any

import numpy as np
from golden.case import INIT_RANGE, Case, Inputs, texts
from golden.tokenizer import word_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "initializer_range": INIT_RANGE,
}
# So large that leaving it out, or taking another, shows.
EPS = {"layer_norm_eps": 0.01}
TYPED = ("input_ids", "attention_mask", "token_type_ids")
BARE: dict[str, Any] = {"arguments": TYPED, "output": "last_hidden_state"}

HEADS = {
    "classification": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "token_classification": "ForTokenClassification",
    "multiple_choice": "ForMultipleChoice",
    "masked_lm": "ForMaskedLM",
}


def make(name: str, model_type: str, **fields: Any) -> Any:
    """A model of transformers with its random weights."""
    import transformers

    config = transformers.AutoConfig.for_model(model_type, **SIZES | fields)
    return getattr(transformers, name)(config)


def bert(kind: str, **fields: Any) -> Any:
    return make(f"Bert{kind}", "bert", **fields)


def roberta(kind: str, **fields: Any) -> Any:
    return make(f"Roberta{kind}", "roberta", type_vocab_size=1, pad_token_id=1, **fields)


def batch(types: int = 2, pad_id: int = 0):
    """Four texts of 7, 5, 2 and 1 tokens, with types."""

    def inputs(rng: np.random.Generator) -> Inputs:
        made = texts(rng, SIZES["vocab_size"], 7, 5, 2, 1, pad_id=pad_id)
        kinds = rng.integers(0, types, made["input_ids"].shape).astype(np.int32)
        return made | {"token_type_ids": kinds * made["attention_mask"]}

    return inputs


def choices(inputs: Any):
    """The four texts of a batch as two questions of two choices."""
    return lambda rng: {name: x.reshape(2, 2, -1) for name, x in inputs(rng).items()}


def head_case(make: Any, head: str, inputs: Any, **fields: Any) -> Case:
    """A case of a head; `make` takes the end of the class's name and fields."""
    if "classification" in head:
        fields["num_labels"] = 3
    if head == "regression":
        fields |= {"num_labels": 1, "problem_type": "regression"}
    return Case(
        make=lambda: make(HEADS[head], **fields),
        inputs=choices(inputs) if head == "multiple_choice" else inputs,
        arguments=TYPED,
        mask="attention_mask" if head in ("token_classification", "masked_lm") else None,
        options={"head": head},
    )


_BERT: dict[str, dict[str, Any]] = {
    "classification": {"hidden_act": "quick_gelu"},
    "regression": {"hidden_act": "tanh"},
    "token_classification": {"hidden_act": "relu"},
    "multiple_choice": {"hidden_act": "silu"},
    "masked_lm": {"hidden_act": "gelu_new", **EPS},
}

CASES = {
    "bert": Case(
        make=lambda: bert("Model"), inputs=batch(), tokenizer=word_tokenizer(pad_id=0), **BARE
    ),
    "roberta": Case(
        make=lambda: roberta("Model", **EPS),
        inputs=batch(1, pad_id=1),
        tokenizer=word_tokenizer(pad_id=1),
        **BARE,
    ),
    **{f"bert_{head}": head_case(bert, head, batch(), **fields) for head, fields in _BERT.items()},
    **{
        # The head of the masked language model keeps its GELU whatever the layers have.
        f"roberta_{head}": head_case(
            roberta,
            head,
            batch(1, pad_id=1),
            hidden_act="relu" if head == "masked_lm" else "gelu",
            **EPS,
        )
        for head in HEADS
    },
}
