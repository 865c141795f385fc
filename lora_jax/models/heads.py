"""From the hidden states of an encoder to one vector, and from it to the logits of classes.

Functions for heads that lie beside a model; `task_heads` holds those that are part of one.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lora_jax.models.layers import INIT_SCALE
from lora_jax.models.product import product

POOLINGS = ("mean", "cls")

Head = dict[str, Any]


def pool(
    hidden: Float[Array, "batch length dim"], mask: Int[ArrayLike, "batch length"], kind: str
) -> Float[Array, "batch dim"]:
    """Makes one vector of each sequence.

    Args:
        hidden: hidden states of any floating type.
        mask: 1 for real tokens, 0 for padding.
        kind: "mean" of the real tokens, or "cls", the first token.

    Returns:
        The pooled vectors in float32.

    Raises:
        ValueError: the kind is unknown.

    >>> pool(jnp.array([[[1.0], [3.0], [9.0]]]), jnp.array([[1, 1, 0]]), "mean")
    Array([[2.]], dtype=float32)
    """
    if kind not in POOLINGS:
        raise ValueError(f"unknown pooling {kind!r}; known: {', '.join(POOLINGS)}")
    hidden = hidden.astype(jnp.promote_types(hidden.dtype, jnp.float32))
    if kind == "cls":
        return hidden[:, 0]
    weights = jnp.asarray(mask, hidden.dtype)[..., None]
    return (hidden * weights).sum(1) / jnp.maximum(weights.sum(1), 1)


def normalize(pooled: Float[Array, "batch dim"]) -> Float[Array, "batch dim"]:
    """Scales each vector to length 1, so that a dot product of two is their cosine."""
    length = jnp.linalg.norm(pooled, axis=-1, keepdims=True)
    return pooled / jnp.maximum(length, 1e-12)


def init_classifier(key: PRNGKeyArray, dim: int, classes: int, *, dense: bool = False) -> Head:
    """Makes a fresh classifier of pooled vectors.

    Args:
        key: the source of randomness.
        dim: size of a pooled vector.
        classes: number of classes; 1 for regression.
        dense: with RoBERTa's extra layer, `tanh(x @ dense)`, before the logits.

    Returns:
        `{"kernel": [dim, classes], "bias": [classes]}` in float32, and with `dense` also
        `{"dense": {"kernel": [dim, dim], "bias": [dim]}}`.
    """
    outer, inner = jax.random.split(key)
    head: Head = dict(_init_linear(outer, dim, classes))
    return head | {"dense": _init_linear(inner, dim, dim)} if dense else head


def classify(
    head: Head,
    pooled: Float[Array, "batch dim"],
    *,
    dropout: float = 0.0,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "batch classes"]:
    """Computes the logits in float32.

    Args:
        head: the result of `init_classifier`.
        pooled: the result of `pool`.
        dropout: rate in [0, 1) on what each layer takes in, as RoBERTa's classifier has it.
        key: source of randomness; without one nothing is dropped.

    Returns:
        The logits.
    """
    outer, inner = (None, None) if key is None else jax.random.split(key)
    if "dense" in head:
        pooled = project(head["dense"], _drop(pooled, dropout, inner))
    return _linear(head, _drop(pooled, dropout, outer))


def project(
    dense: dict[str, Array], pooled: Float[Array, "batch dim"]
) -> Float[Array, "batch dim"]:
    """Applies a dense layer and tanh: BERT's pooler, and the first half of RoBERTa's classifier."""
    return jnp.tanh(_linear(dense, pooled))


def _drop(
    x: Float[Array, "batch dim"], rate: float, key: PRNGKeyArray | None
) -> Float[Array, "batch dim"]:
    if key is None or not rate:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0)


def _init_linear(key: PRNGKeyArray, ins: int, outs: int) -> dict[str, Array]:
    return {"kernel": INIT_SCALE * jax.random.normal(key, (ins, outs)), "bias": jnp.zeros(outs)}


def _linear(params: Head, x: Float[Array, "batch ins"]) -> Float[Array, "batch outs"]:
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return product("bi,io->bo", x, params["kernel"], dtype.name) + params["bias"]
