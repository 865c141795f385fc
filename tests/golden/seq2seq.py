"""T5 and Flan-T5."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from golden.case import Case, Inputs, texts
from golden.decoders import BEAM, GREEDY

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 16,
    # The other way about, `generate` of transformers fails: its cache has the encoder's layers.
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 9,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


# Fresh attention is even, and fresh texts repeat the token that a tied head has just read.
UNEVEN = {".q.": 5, ".o.": 10, ".wo.": 10, "relative": 5}


def t5(*, untie: bool = False, scales: Mapping[str, float] = UNEVEN, **fields: Any) -> Any:
    import torch
    import transformers

    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**SIZES | fields))
    for name, parameter in model.named_parameters():
        parameter.data *= next((scale for part, scale in scales.items() if part in name), 1)
    if untie:  # as in the published files of version 1.1; the class itself ties all heads
        model.lm_head.weight = torch.nn.Parameter(torch.randn(model.lm_head.weight.shape))
    return model


def batch(rng: np.random.Generator) -> Inputs:
    """Three texts of 11, 7 and 2 tokens, and the first 8, 8 and 5 tokens of their answers."""
    answers = texts(rng, SIZES["vocab_size"], 8, 8, 5)
    return texts(rng, SIZES["vocab_size"], 11, 7, 2) | {
        f"decoder_{name}": value for name, value in answers.items()
    }


def prompts(rng: np.random.Generator) -> Inputs:
    """Three texts of 9, 6 and 2 tokens."""
    return texts(rng, SIZES["vocab_size"], 9, 6, 2)


def case(beam: dict[str, Any], *, live_seed: int = 1, **fields: Any) -> Case:
    return Case(
        live_seed=live_seed,
        make=lambda: t5(**fields),
        inputs=batch,
        arguments=(
            "input_ids",
            "attention_mask",
            "decoder_input_ids",
            "decoder_attention_mask",
        ),
        mask="decoder_attention_mask",
        prompts=prompts,
        generate={"greedy": GREEDY, "beam": beam},
    )


CASES = {
    # Its texts would end at once.
    "t5": case(BEAM | {"min_new_tokens": 8}),
    # With the first seed its gradients are too badly conditioned to compare: those of one program,
    # compiled in two ways, differ by 2e-4.
    "flan_t5": case(
        BEAM,
        feed_forward_proj="gated-gelu",
        layer_norm_epsilon=0.01,
        tie_word_embeddings=False,
        untie=True,
        live_seed=2,
    ),
    # Attention that all but picks one token is no ground to train on: rounding grows too fast.
    "t5_even": dataclasses.replace(case({}, scales={}), generate={}, prompts=None),
}
