"""The heads of encoders as their checkpoints hold them: hidden states to the logits of a task."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lora_jax.models.activations import ACTIVATIONS
from lora_jax.models.checks import check_name
from lora_jax.models.layers import LayerNorm, Linear
from lora_jax.models.product import product

_ONE_OUTPUT = ("regression", "multiple_choice")
HEADS = ("classification", "token_classification", "masked_lm", *_ONE_OUTPUT)


class PooledHead(nnx.Module):
    """Logits of a whole text, from its first token.

    Args:
        dim: width of the hidden state.
        outputs: number of logits.
        activation: what follows the dense layer, a name in `ACTIVATIONS`.
        dtype: name of the type of the operands of products.
        rngs: source of the initial weights.
    """

    def __init__(
        self, dim: int, outputs: int, *, activation: str, dtype: str, rngs: nnx.Rngs
    ) -> None:
        self.dense = Linear(dim, dim, dtype=dtype, rngs=rngs)
        self.out_proj = Linear(dim, outputs, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(self, hidden: Float[Array, "batch length dim"]) -> Float[Array, "batch outputs"]:
        """Computes the logits in at least float32."""
        return _logits(self.out_proj, ACTIVATIONS[self.activation](self.dense(hidden[:, 0])))


class TokenHead(nnx.Module):
    """Logits of every token.

    Args:
        dim: width of the hidden state.
        outputs: number of logits.
        dtype: name of the type of the operands of products.
        rngs: source of the initial weights.
    """

    def __init__(self, dim: int, outputs: int, *, dtype: str, rngs: nnx.Rngs) -> None:
        self.out_proj = Linear(dim, outputs, dtype=dtype, rngs=rngs)

    def __call__(
        self, hidden: Float[Array, "batch length dim"]
    ) -> Float[Array, "batch length outputs"]:
        """Computes the logits in at least float32."""
        return _logits(self.out_proj, hidden)


class MaskedLMHead(nnx.Module):
    """Logits of the vocabulary for every token, by products with the embedding table.

    Args:
        dim: width of the hidden state.
        table_dim: width of the embedding table.
        vocab_size: rows of the embedding table.
        activation: what follows the dense layer, a name in `ACTIVATIONS`.
        eps: added to the variance in layer normalisation.
        dtype: name of the type of the operands of products.
        rngs: source of the initial weights.

    Source: Devlin et al., 2018, section 3.1.
    """

    def __init__(
        self,
        dim: int,
        table_dim: int,
        vocab_size: int,
        *,
        activation: str,
        eps: float,
        dtype: str,
        rngs: nnx.Rngs,
    ) -> None:
        self.dense = Linear(dim, table_dim, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(table_dim, eps=eps, dtype=dtype)
        self.bias = nnx.Param(jnp.zeros(vocab_size, dtype))
        self.activation = activation
        self.dtype = dtype

    def __call__(
        self, hidden: Float[Array, "batch length dim"], table: Float[Array, "vocabulary width"]
    ) -> Float[Array, "batch length vocabulary"]:
        """Computes the logits in at least float32."""
        hidden = self.norm(ACTIVATIONS[self.activation](self.dense(hidden)))
        return product("...d,vd->...v", hidden, table, self.dtype) + self.bias[...]


def check_head(head: str | None, classes: int) -> None:
    """Checks the fields `head` and `classes` of a config.

    Raises:
        ValueError: the head is unknown, or there is no class.
    """
    if head is not None:
        check_name("head", head, HEADS)
    if classes < 1:
        raise ValueError(f"classes is {classes}, but a head has at least one output")


def make_head(
    config: Any, rngs: nnx.Rngs, *, pooled: str = "tanh", masked: str, table_dim: int
) -> nnx.Module:
    """Makes the head that a config asks for, with fresh weights.

    Args:
        config: the config of an encoder; its `head` is not None.
        rngs: source of the initial weights.
        pooled: activation of a head that judges whole texts.
        masked: activation of the masked language model's head.
        table_dim: width of the embedding table.
    """
    if config.head == "masked_lm":
        return MaskedLMHead(
            config.dim,
            table_dim,
            config.vocab_size,
            activation=masked,
            eps=config.eps,
            dtype=config.dtype,
            rngs=rngs,
        )
    outputs = 1 if config.head in _ONE_OUTPUT else config.classes
    if config.head == "token_classification":
        return TokenHead(config.dim, outputs, dtype=config.dtype, rngs=rngs)
    return PooledHead(config.dim, outputs, activation=pooled, dtype=config.dtype, rngs=rngs)


def predict(
    encoder: Any,
    ids: Int[Array, "*batch length"],
    mask: Int[Array, "*batch length"],
    type_ids: Int[Array, "*batch length"] | None,
) -> Float[Array, "..."]:
    """Encodes texts and applies the encoder's head, if it has one.

    Args:
        encoder: has `encode`, `embed`, `config` and, where `config.head` is not None, `head`.
        ids: token ids `[batch, length]`; for multiple choice `[batch, choices, length]`.
        mask: 1 for real tokens, 0 for padding.
        type_ids: 0 for the first text of a pair, 1 for the second; all 0 if absent.

    Returns:
        Without a head the hidden states `[batch, length, dim]`; else logits in float32, of the
        shape `[batch, classes]` (classification), `[batch, 1]` (regression), `[batch, choices]`
        (multiple choice), or `[batch, length, classes or vocabulary]`.

    Raises:
        ValueError: the ids have too many axes, or too few.
    """
    head = encoder.config.head
    axes = 3 if head == "multiple_choice" else 2
    if ids.ndim != axes:
        shape = "[batch, choices, length]" if axes == 3 else "[batch, length]"
        raise ValueError(f"ids have the shape {ids.shape}, but head {head!r} takes {shape}")
    flat = [None if x is None else x.reshape(-1, x.shape[-1]) for x in (ids, mask, type_ids)]
    hidden = encoder.encode(*flat)
    if head is None:
        return hidden
    if head == "masked_lm":
        return encoder.head(hidden, encoder.embed.embedding[...])
    logits = encoder.head(hidden)
    return logits.reshape(ids.shape[:2]) if head == "multiple_choice" else logits


def _logits(linear: Linear, x: Float[Array, "*batch ins"]) -> Float[Array, "*batch outs"]:
    """The affine map, without rounding its result to the type of the activations."""
    outs = product("...i,io->...o", x, linear.kernel[...], linear.dtype)
    return outs if linear.bias is None else outs + linear.bias[...]
