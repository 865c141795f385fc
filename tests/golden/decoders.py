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


def decoder(model_type: str, **fields: Any) -> Any:
    names = {"qwen3_moe": "Qwen3Moe", "gemma3_text": "Gemma3", "gemma2": "Gemma2"}
    sizes = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
    }
    name = names.get(model_type, model_type.capitalize())
    return make(f"{name}ForCausalLM", model_type, **sizes | fields)


def rope(kind: str, **fields: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 100.0, **fields}


def case(model_type: str, *, generate: tuple[str, ...] = (), **fields: Any) -> Case:
    """A decoder, and which ways of generating are recorded."""
    settings = {"greedy": GREEDY, "beam": BEAM}
    return Case(
        make=lambda: decoder(model_type, **fields),
        inputs=batch,
        prompts=prompts,
        generate={name: settings[name] for name in generate},
    )


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
    "llama": case("llama", generate=("greedy", "beam")),
    "llama_biased": case(
        "llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True, hidden_act="gelu"
    ),
    "llama_rope_llama3": case(
        "llama",
        rope_parameters=rope(
            "llama3",
            factor=4.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    ),
    "llama_rope_linear": case("llama", rope_parameters=rope("linear", factor=4.0)),
    "llama_rope_yarn": case(
        "llama",
        rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=32),
        generate=("greedy",),
    ),
    "mistral": case("mistral", sliding_window=4, generate=("greedy",)),
    "mixtral": case("mixtral", num_local_experts=4, generate=("greedy",)),
    "qwen2": case("qwen2", generate=("greedy",)),
    "qwen2_some_layers_windowed": case(
        "qwen2", use_sliding_window=True, sliding_window=3, max_window_layers=1
    ),
    "qwen3": case("qwen3", generate=("greedy",)),
    "qwen3_moe": case("qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12),
    "qwen3_moe_normalized": case(
        "qwen3_moe",
        num_experts=4,
        num_experts_per_tok=3,
        moe_intermediate_size=12,
        norm_topk_prob=True,
        attention_bias=True,
    ),
    "gemma2": case("gemma2", sliding_window=4, query_pre_attn_scalar=5, generate=("greedy",)),
    "gemma3": case(
        "gemma3_text",
        num_hidden_layers=3,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        sliding_window=4,
        query_pre_attn_scalar=5,
        rope_parameters={
            "full_attention": rope("linear", factor=8.0),
            "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
        },
        generate=("greedy",),
    ),
}
