"""GPT-2 and the family of Llama, Mistral, Qwen, Gemma and Mixtral."""

from typing import Any

import numpy as np
from golden.case import INIT_RANGE, Case, Inputs, texts

GREEDY = {"max_new_tokens": 64, "min_new_tokens": 64, "do_sample": False}
BEAM = {
    "max_new_tokens": 12,
    "num_beams": 4,
    "length_penalty": 0.9,
    "no_repeat_ngram_size": 4,
    "do_sample": False,
}


def make(name: str, model_type: str, **fields: Any) -> Any:
    """A model of transformers with its random weights."""
    import transformers

    fields = {"initializer_range": INIT_RANGE, "bos_token_id": 1, "eos_token_id": 2} | fields
    config = transformers.AutoConfig.for_model(model_type, **fields, pad_token_id=0)
    config._attn_implementation = "eager"
    return getattr(transformers, name)(config)


def batch(rng: np.random.Generator) -> Inputs:
    """Three texts of 9, 6 and 2 tokens."""
    return texts(rng, 40, 9, 6, 2)


def prompts(rng: np.random.Generator) -> Inputs:
    """Three texts to be continued."""
    return texts(rng, 40, 7, 4, 1, left=True)


def gpt2(**fields: Any) -> Any:
    sizes = {"vocab_size": 40, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 80}
    return make("GPT2LMHeadModel", "gpt2", **sizes | fields)


CASES = {
    "gpt2": Case(
        make=gpt2, inputs=batch, prompts=prompts, generate={"greedy": GREEDY, "beam": BEAM}
    ),
    "gpt2_scaled_by_layer": Case(
        make=lambda: gpt2(
            scale_attn_by_inverse_layer_idx=True,
            scale_attn_weights=False,
            n_inner=24,
            activation_function="relu",
            tie_word_embeddings=False,
        ),
        inputs=batch,
    ),
}
