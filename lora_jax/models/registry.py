"""The families of models by name, and how a config becomes a pure function of params."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PRNGKeyArray

from lora_jax.models import bert, clip, deberta, decoder, gpt2, llava, qwen2_5_vl, t5, vision
from lora_jax.models.cache import empty_cache
from lora_jax.models.outputs import check_length
from lora_jax.models.t5_cache import empty_seq2seq_cache

FAMILIES: dict[str, Callable[..., nnx.Module]] = {
    "bert": bert.Encoder,
    "clip": clip.Clip,
    "clip_vision_model": vision.VisionTower,
    "deberta-v2": deberta.Encoder,
    "gemma2": decoder.Decoder,
    "gemma3_text": decoder.Decoder,
    "gpt2": gpt2.GPT2,
    "llama": decoder.Decoder,
    "llava": llava.Llava,
    "mistral": decoder.Decoder,
    "mixtral": decoder.Decoder,
    "qwen2": decoder.Decoder,
    "qwen2_5_vl": qwen2_5_vl.QwenVL,
    "qwen3": decoder.Decoder,
    "qwen3_moe": decoder.Decoder,
    "roberta": bert.Encoder,
    "siglip": clip.Clip,
    "siglip_vision_model": vision.VisionTower,
    "t5": t5.T5,
    "vit": vision.VisionTower,
}

# What makes the caches of families that keep more than a decoder does.
CACHES: dict[str, Callable[..., Any]] = {
    "qwen2_5_vl": qwen2_5_vl.empty_shifted_cache,
    "t5": empty_seq2seq_cache,
}


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, so that jit can cache it
class Apply:
    """A model as a pure function of its params, which knows the config it was built from.

    Args:
        graphdef: the model without its params.
        config: the config of its family.
    """

    graphdef: Any
    config: Any

    def __call__(self, params: dict[str, Any], *inputs: Any, **named: Any) -> Any:
        """Runs the model."""
        inputs, named = jax.tree.map(_as_array, (inputs, named))
        return nnx.merge(self.graphdef, params)(*inputs, **named)


class Model(NamedTuple):
    """A model as a function and the shapes of its parameters.

    Args:
        apply: `apply(params, *inputs)`; for an encoder `apply(params, ids, mask, type_ids=None)`,
            for a decoder `apply(params, ids, mask=None, *, cache=None, outputs="logits")`.
        shapes: the params as nested dicts of `jax.ShapeDtypeStruct`; nothing is allocated.
    """

    apply: Apply
    shapes: dict[str, Any]


def build(config: Any) -> Model:
    """Makes the pure function of a model, and the shapes of its parameters, without allocating any.

    Args:
        config: the config of a family, such as `BertConfig`.

    Returns:
        The model.

    >>> from lora_jax.models.bert import BertConfig
    >>> model = build(BertConfig(dim=8, heads=2, layers=3))
    >>> model.shapes["layers"]["q_proj"]["kernel"].shape
    (3, 8, 8)
    """
    module = nnx.eval_shape(lambda: _make(config, jax.random.key(0)))
    graphdef, state = nnx.split(module)

    return Model(Apply(graphdef, config), nnx.to_pure_dict(state))


def init(config: Any, key: PRNGKeyArray) -> dict[str, Any]:
    """Makes fresh parameters, for tests and for training from scratch.

    Args:
        config: the config of a family.
        key: the source of randomness.

    Returns:
        The params as nested dicts of arrays in `config.dtype`.
    """
    return nnx.to_pure_dict(nnx.state(_make(config, key)))


def init_head(config: Any, key: PRNGKeyArray) -> dict[str, Any]:
    """Makes a fresh head, for the params of a pretrained encoder that were read without one.

    Args:
        config: the config of an encoder with a `head`.
        key: the source of randomness.

    Returns:
        What belongs under "head" in the params.

    Raises:
        ValueError: the config has no head.

    >>> from lora_jax.models.bert import BertConfig
    >>> config = BertConfig(dim=8, heads=2, layers=3, head="classification", classes=5)
    >>> init_head(config, jax.random.key(0))["out_proj"]["kernel"].shape
    (8, 5)
    """
    if getattr(config, "head", None) is None:
        raise ValueError("the config has no head; give it one with dataclasses.replace")
    # Compiled, so that the weights of the encoder are never made.
    head: dict[str, Any] = jax.jit(lambda key: init(config, key)["head"])(key)
    return head


def new_cache(config: Any, batch: int, slots: int) -> Any:
    """Makes the empty cache of a decoder, or of an encoder–decoder.

    Args:
        config: the config of the model.
        batch: number of texts.
        slots: number of tokens it can hold, padding included.

    Returns:
        The cache, in `config.dtype`.

    Raises:
        ValueError: more slots than the model has positions.
    """
    make: Callable[..., Any] = CACHES.get(config.model_type, empty_cache)
    if config.max_length is not None:
        check_length(slots, None, config.max_length)
    return make(config.layers, batch, slots, config.kv_heads, config.head_dim, config.dtype)


def _as_array(value: Any) -> Any:
    """Arrays for numbers; names, switches and functions stay what they are."""
    return value if isinstance(value, bool | str) or callable(value) else jnp.asarray(value)


def _make(config: Any, key: PRNGKeyArray) -> nnx.Module:
    if config.model_type not in FAMILIES:
        raise ValueError(f"unknown model_type {config.model_type!r}; known: {', '.join(FAMILIES)}")
    return FAMILIES[config.model_type](config, nnx.Rngs(key))
