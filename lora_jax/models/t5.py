"""T5 and Flan-T5 (Raffel et al., 2020; Chung et al., 2022)."""

import functools
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lora_jax.models.cache import advance, begin, visible
from lora_jax.models.layers import Embedding, Linear, RMSNorm
from lora_jax.models.outputs import Outputs, finish
from lora_jax.models.product import product
from lora_jax.models.stack import run_stack, stack_layers
from lora_jax.models.t5_cache import Seq2SeqCache
from lora_jax.models.t5_config import T5Config
from lora_jax.models.t5_layers import DecoderLayer, EncoderLayer
from lora_jax.models.t5_positions import RelativePositions


class Encoder(RelativePositions):
    """Embedded tokens to hidden states, every token seeing all others.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: T5Config, rngs: nnx.Rngs) -> None:
        super().__init__(config, rngs, both_sides=True)
        make = functools.partial(EncoderLayer, config)
        self.layers = stack_layers(make, config.encoder_layers, rngs)
        self.norm = RMSNorm(config.dim, eps=config.eps, dtype=config.dtype)

    def __call__(
        self, hidden: Float[Array, "batch length dim"], mask: Int[Array, "batch length"]
    ) -> Float[Array, "batch length dim"]:
        """Encodes texts; padding (mask 0) is looked at by no token."""
        bias = self.within(hidden.shape[1])
        allowed = mask[:, None, None, :] != 0
        hidden = run_stack(
            self.layers,
            lambda layer, hidden, _: layer.encode(hidden, allowed, bias),
            hidden,
            scan=self.config.scan,
            remat=self.config.remat,
        )
        return self.norm(hidden)


class Decoder(RelativePositions):
    """Embedded tokens to hidden states, every token seeing those before and the encoded text.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: T5Config, rngs: nnx.Rngs) -> None:
        super().__init__(config, rngs, both_sides=False)
        self.layers = stack_layers(functools.partial(DecoderLayer, config), config.layers, rngs)
        self.norm = RMSNorm(config.dim, eps=config.eps, dtype=config.dtype)

    def __call__(
        self,
        hidden: Float[Array, "batch length dim"],
        order: Int[Array, "batch length"],
        keys: Int[Array, "batch keys"],
        encoded: Float[Array, "batch source dim"] | None,
        mask: Int[Array, "batch source"],
        cache: Seq2SeqCache | None,
    ) -> tuple[Float[Array, "batch length dim"], Seq2SeqCache | None]:
        """Reads tokens.

        Args:
            hidden: the embedded tokens.
            order: their places in the text, -1 for padding.
            keys: the places of all tokens that may be looked at.
            encoded: the encoded text; None: the cache has its keys and values.
            mask: 1 for real tokens of the encoded text, 0 for padding.
            cache: what came before these tokens, or None.
        """
        run = functools.partial(
            DecoderLayer.decode,
            allowed=visible(order, keys),
            # Without a cache places differ as slots do, which spares a bias for each text.
            bias=self.within(hidden.shape[1]) if cache is None else self.between(order, keys),
            encoded=encoded,
            source=mask[:, None, None, :] != 0,
        )
        hidden, cache = run_stack(
            self.layers,
            lambda layer, carry, number: run(layer, *carry, number),
            (hidden, cache),
            scan=self.config.scan,
            remat=self.config.remat,
            each=jnp.arange(self.config.layers),
        )
        return self.norm(hidden), cache


class T5(nnx.Module):
    """A text, and the beginning of another, to logits of the latter's next token.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: T5Config, rngs: nnx.Rngs) -> None:
        self.embed = Embedding(config.vocab_size, config.dim, dtype=config.dtype, rngs=rngs)
        self.encoder = Encoder(config, rngs)
        self.decoder = Decoder(config, rngs)
        if not config.tied:
            self.lm_head = Linear(
                config.dim, config.vocab_size, dtype=config.dtype, rngs=rngs, bias=False
            )
        self.config = config

    def __call__(
        self,
        ids: Int[Array, "batch source"] | None,
        mask: Int[Array, "batch source"] | None,
        decoder_ids: Int[Array, "batch length"],
        decoder_mask: Int[Array, "batch length"] | None = None,
        *,
        cache: Seq2SeqCache | None = None,
        outputs: Outputs = "logits",
    ) -> Any:
        """Reads texts and the beginnings, or the continuations, of others.

        Args:
            ids: token ids of the text to encode; None: the cache has its keys and values.
            mask: 1 for its real tokens, 0 for padding, on either side; None: all are real.
            decoder_ids: token ids of the decoder's text, of which `config.decoder_start_id` is
                the first.
            decoder_mask: 1 for its real tokens, 0 for padding; None: all are real.
            cache: what came before these tokens; None: nothing did, and nothing is kept.
            outputs: "logits", "last", "hidden" or a function, as `outputs.finish` describes them.

        Returns:
            Logits in float32, or the decoder's hidden states; with a cache also the cache, these
            tokens added.

        Raises:
            ValueError: there is no text to look at, or the cache is too short.
        """
        encoded, mask, cache = self.encode(ids, mask, cache)
        own, order, keys = begin(None if cache is None else cache.own, decoder_ids, decoder_mask)
        if cache is not None and own is not None:
            cache = cache._replace(own=own)
        hidden = self.embed(decoder_ids)
        hidden, cache = self.decoder(hidden, order, keys, encoded, mask, cache)
        result: Any = finish(hidden, order, None, outputs, self.head)
        if cache is None:
            return result
        return result, cache._replace(own=advance(cache.own, order.shape[1]))

    def encode(
        self,
        ids: Int[Array, "batch source"] | None,
        mask: Int[Array, "batch source"] | None,
        cache: Seq2SeqCache | None,
    ) -> tuple[
        Float[Array, "batch source dim"] | None, Int[Array, "batch source"], Seq2SeqCache | None
    ]:
        """Encodes a text, if there is one.

        Returns:
            The encoded text, its mask, and the cache with room for its keys and values.

        Raises:
            ValueError: there is no text, and none in the cache.
        """
        if ids is None:
            if cache is None or not cache.mask.shape[1]:
                raise ValueError("there are no ids to encode, and no cache that has encoded some")
            return None, cache.mask, cache
        mask = jnp.ones_like(ids) if mask is None else mask
        encoded = self.encoder(self.embed(ids), mask)
        return encoded, mask, None if cache is None else cache.make_room(mask)

    def head(
        self, hidden: Float[Array, "batch length dim"]
    ) -> Float[Array, "batch length vocabulary"]:
        """The logits of the next token, in float32."""
        dtype = self.config.dtype
        if self.config.scale_hidden:
            hidden = hidden * self.config.dim**-0.5
        if self.config.tied:
            return product("...d,vd->...v", hidden, self.embed.embedding[...], dtype)
        return product("...d,dv->...v", hidden, self.lm_head.kernel[...], dtype)
