"""The layers of T5's encoder and decoder."""

import functools

from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lora_jax.models.activations import ACTIVATIONS
from lora_jax.models.attention import attention
from lora_jax.models.cache import Cache, remember
from lora_jax.models.layers import Linear, RMSNorm
from lora_jax.models.t5_cache import Seq2SeqCache
from lora_jax.models.t5_config import T5Config

Scores = Float[Array, "#batch heads queries keys"]


class Attention(nnx.Module):
    """Attention without biases, its scores not divided by √head_dim.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: T5Config, rngs: nnx.Rngs) -> None:
        linear = functools.partial(Linear, dtype=config.dtype, rngs=rngs, bias=False)
        width = config.heads * config.head_dim
        self.q_proj = linear(config.dim, width)
        self.k_proj = linear(config.dim, width)
        self.v_proj = linear(config.dim, width)
        self.o_proj = linear(width, config.dim)
        self.config = config

    def keys_and_values(
        self, x: Float[Array, "batch keys dim"]
    ) -> tuple[
        Float[Array, "batch keys heads head_dim"], Float[Array, "batch keys heads head_dim"]
    ]:
        """What is looked at, by head."""
        return self._by_head(self.k_proj(x)), self._by_head(self.v_proj(x))

    def look(
        self,
        x: Float[Array, "batch queries dim"],
        k: Float[Array, "batch keys heads head_dim"],
        v: Float[Array, "batch keys heads head_dim"],
        allowed: Bool[Array, "#batch 1 #queries keys"],
        bias: Scores | None = None,
    ) -> Float[Array, "batch queries dim"]:
        """Looks at keys and takes up their values."""
        q = self._by_head(self.q_proj(x))
        mixed = attention(q, k, v, allowed, self.config.dtype, scale=1.0, bias=bias)
        return self.o_proj(mixed.reshape(*x.shape[:2], -1))

    def _by_head(self, x: Float[Array, "batch length width"]) -> Float[Array, "..."]:
        return x.reshape(*x.shape[:2], self.config.heads, self.config.head_dim)


class EncoderLayer(Attention):
    """Self-attention and a feed-forward block, each added to its unnormalised input."""

    def __init__(self, config: T5Config, rngs: nnx.Rngs) -> None:
        super().__init__(config, rngs)
        linear = functools.partial(Linear, dtype=config.dtype, rngs=rngs, bias=False)
        norm = functools.partial(RMSNorm, config.dim, eps=config.eps, dtype=config.dtype)
        self.attention_norm = norm()
        self.mlp_norm = norm()
        if config.gated:
            self.gate_proj = linear(config.dim, config.ff_dim)
            self.up_proj = linear(config.dim, config.ff_dim)
            self.down_proj = linear(config.ff_dim, config.dim)
        else:
            self.fc1 = linear(config.dim, config.ff_dim)
            self.fc2 = linear(config.ff_dim, config.dim)

    def encode(
        self,
        hidden: Float[Array, "batch length dim"],
        allowed: Bool[Array, "batch 1 1 length"],
        bias: Scores,
    ) -> Float[Array, "batch length dim"]:
        """Applies the layer of an encoder."""
        x = self.attention_norm(hidden)
        hidden = hidden + self.look(x, *self.keys_and_values(x), allowed, bias)
        return hidden + self.feed_forward(self.mlp_norm(hidden))

    def feed_forward(self, x: Float[Array, "batch length dim"]) -> Float[Array, "batch length dim"]:
        """The feed-forward block."""
        activate = ACTIVATIONS[self.config.activation]
        if self.config.gated:
            return self.down_proj(activate(self.gate_proj(x)) * self.up_proj(x))
        return self.fc2(activate(self.fc1(x)))


class DecoderLayer(EncoderLayer):
    """A layer that between its two blocks looks at the encoded text."""

    def __init__(self, config: T5Config, rngs: nnx.Rngs) -> None:
        super().__init__(config, rngs)
        self.cross_norm = RMSNorm(config.dim, eps=config.eps, dtype=config.dtype)
        self.cross = Attention(config, rngs)

    def decode(
        self,
        hidden: Float[Array, "batch length dim"],
        cache: Seq2SeqCache | None,
        number: Int[Array, ""],
        *,
        allowed: Bool[Array, "batch 1 length keys"],
        bias: Scores,
        encoded: Float[Array, "batch source dim"] | None,
        source: Bool[Array, "batch 1 1 source"],
    ) -> tuple[Float[Array, "batch length dim"], Seq2SeqCache | None]:
        """Applies the layer of a decoder.

        Args:
            hidden: output of the layer before.
            cache: earlier keys and values, or None.
            number: of this layer, counted from 0.
            allowed: True where a token may look in the decoder's text.
            bias: added to the scores of self-attention.
            encoded: the encoded text; None: its keys and values are in the cache.
            source: True for real tokens of the encoded text.

        Returns:
            The hidden states, and the cache with this layer's keys and values.
        """
        x = self.attention_norm(hidden)
        own: Cache | None = None if cache is None else cache.own
        own, k, v = remember(own, number, *self.keys_and_values(x))
        if cache is not None and own is not None:
            cache = cache._replace(own=own)
        hidden = hidden + self.look(x, k, v, allowed, bias)
        if encoded is not None:
            k, v = self.cross.keys_and_values(encoded)
            cache = None if cache is None else cache.keep(number, k, v)
        elif cache is not None:
            k, v = (lax.dynamic_index_in_dim(x, number, keepdims=False) for x in (cache.k, cache.v))
        hidden = hidden + self.cross.look(self.cross_norm(hidden), k, v, source)
        return hidden + self.feed_forward(self.mlp_norm(hidden)), cache
