"""Pooling of an image by attention, as SigLIP does it (Lee et al., 2019; Zhai et al., 2022)."""

import functools

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lora_jax.models.activations import ACTIVATIONS
from lora_jax.models.attention import attention
from lora_jax.models.layers import INIT_SCALE, LayerNorm, Linear
from lora_jax.models.tower import TowerConfig, everywhere_in


class AttentionPool(nnx.Module):
    """A learned query looks at all patches, and a feed-forward block is added to what it sees.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: TowerConfig, rngs: nnx.Rngs) -> None:
        linear = functools.partial(Linear, dtype=config.dtype, rngs=rngs)
        init = nnx.initializers.normal(INIT_SCALE)
        self.query = nnx.Param(init(rngs.params(), (config.dim,), jnp.dtype(config.dtype)))
        self.q_proj = linear(config.dim, config.dim)
        self.k_proj = linear(config.dim, config.dim)
        self.v_proj = linear(config.dim, config.dim)
        self.o_proj = linear(config.dim, config.dim)
        self.norm = LayerNorm(config.dim, eps=config.eps, dtype=config.dtype)
        self.fc1 = linear(config.dim, config.ff_dim)
        self.fc2 = linear(config.ff_dim, config.dim)
        self.config = config

    def __call__(self, hidden: Float[Array, "batch length dim"]) -> Float[Array, "batch dim"]:
        """Makes one vector of each image."""
        config = self.config
        by_head = (*hidden.shape[:2], config.heads, -1)
        q = self.q_proj(self.query[...]).reshape(1, 1, config.heads, -1)
        q = jnp.broadcast_to(q, (len(hidden), *q.shape[1:]))
        k, v = self.k_proj(hidden).reshape(by_head), self.v_proj(hidden).reshape(by_head)
        mixed = attention(q, k, v, everywhere_in(hidden), config.dtype)
        pooled = self.o_proj(mixed.reshape(len(hidden), config.dim))
        activate = ACTIVATIONS[config.activation]
        return pooled + self.fc2(activate(self.fc1(self.norm(pooled))))
