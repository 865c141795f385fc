"""One decoder for Llama, Mistral, Qwen, Gemma and Mixtral."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from lora_jax.models.activations import ACTIVATIONS
from lora_jax.models.attention import IMPLEMENTATIONS, attention
from lora_jax.models.cache import Cache, begin, remember, visible
from lora_jax.models.checks import check_name
from lora_jax.models.experts import Experts
from lora_jax.models.layers import DTYPES, Embedding, Linear, RMSNorm
from lora_jax.models.outputs import Outputs, check_length, finish
from lora_jax.models.product import product
from lora_jax.models.rope import Rope, Tables, rotate, tables
from lora_jax.models.stack import REMAT_POLICIES, run_stack, stack_layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What makes one decoder different from another.

    Args:
        model_type: the key in `models.FAMILIES`, such as "llama" or "qwen2".
        vocab_size: number of tokens.
        dim: width of the hidden state.
        layers: number of layers.
        heads: number of heads of queries, a multiple of `kv_heads`.
        kv_heads: number of heads of keys and values.
        head_dim: width of one head, an even number.
        ff_dim: width inside the feed-forward block, or inside each expert.
        max_length: the longest text in tokens.
        activation: of the gate of the feed-forward block, a name in `ACTIVATIONS`.
        eps: added to the mean square in normalisation.
        rope: the rotary positions.
        local_rope: those of layers with a window, where they differ (Gemma 3).
        mrope_sections: pairs that turn with time, row and column (Qwen2-VL); empty: one position.
        window: tokens that a layer with a window looks at, itself included.
        windowed: for each layer whether it has a window; empty: none has.
        qkv_bias: whether queries, keys and values have biases.
        o_bias: whether the output of attention has one.
        mlp_bias: whether the feed-forward block has biases.
        qk_norm: normalise each head of queries and keys (Qwen3, Gemma 3).
        norm_from_one: scales of norms are stored as their difference from 1 (Gemma).
        out_norms: normalise what attention and feed-forward block add, too (Gemma 2 and 3).
        embed_scale: what embeddings are multiplied with (Gemma: √dim).
        query_scale: what scores are multiplied with; None is 1/√head_dim.
        score_cap: squeezes attention scores by tanh (Gemma 2).
        logit_cap: squeezes logits by tanh (Gemma 2).
        tied: the output head is the embedding; otherwise a matrix of its own.
        experts: number of experts in each layer; 0: one dense block.
        experts_per_token: how many of them a token takes.
        experts_normalized: whether the weights of a token's experts are made to add up to 1.
        pad_id: id of the padding token; None if the model has none.
        bos_id: id of the token that begins a text; None if the model has none.
        eos_ids: ids of tokens that end a text.
        dtype: name of the type of activations and of the operands of products.
        scan: scan over the layers; otherwise unroll them, which is faster for few layers on CPU.
        remat: what the backward pass keeps, a name in `REMAT_POLICIES`.
        attention: how attention is computed, a name in `attention.IMPLEMENTATIONS`.

    Raises:
        ValueError: sizes that do not fit each other, or an unknown name.
    """

    model_type: str = "llama"
    vocab_size: int = 32000
    dim: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    head_dim: int = 128
    ff_dim: int = 11008
    max_length: int = 4096
    activation: str = "silu"
    eps: float = 1e-5
    rope: Rope = dataclasses.field(default_factory=Rope)
    local_rope: Rope | None = None
    mrope_sections: tuple[int, ...] = ()
    window: int = 0
    windowed: tuple[bool, ...] = ()
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    norm_from_one: bool = False
    out_norms: bool = False
    embed_scale: float = 1.0
    query_scale: float | None = None
    score_cap: float | None = None
    logit_cap: float | None = None
    tied: bool = False
    experts: int = 0
    experts_per_token: int = 0
    experts_normalized: bool = True
    pad_id: int | None = None
    bos_id: int | None = 1
    eos_ids: tuple[int, ...] = (2,)
    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"
    attention: str = "plain"

    def __post_init__(self) -> None:
        check_name("dtype", self.dtype, DTYPES)
        check_name("activation", self.activation, ACTIVATIONS)
        check_name("remat", self.remat, REMAT_POLICIES)
        check_name("attention", self.attention, IMPLEMENTATIONS)
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd, but its entries turn in pairs")
        if self.mrope_sections and 2 * sum(self.mrope_sections) != self.head_dim:
            raise ValueError(
                f"mrope_sections {self.mrope_sections} are not the {self.head_dim // 2} pairs of "
                f"head_dim {self.head_dim}"
            )
        if len(self.windowed) not in (0, self.layers):
            raise ValueError(f"windowed has {len(self.windowed)} entries for {self.layers} layers")
        if any(self.windowed) and self.window < 1:
            raise ValueError(f"layers have a window, but its size is {self.window}")
        if self.experts_per_token > self.experts:
            raise ValueError(f"{self.experts_per_token} of {self.experts} experts per token")


class Layer(nnx.Module):
    """Causal self-attention and a gated feed-forward block, each added to its input."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        linear = functools.partial(Linear, dtype=config.dtype, rngs=rngs)
        norm = functools.partial(
            RMSNorm, eps=config.eps, dtype=config.dtype, from_one=config.norm_from_one
        )
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.attention_norm = norm(config.dim)
        self.q_proj = linear(config.dim, queries, bias=config.qkv_bias)
        self.k_proj = linear(config.dim, keys, bias=config.qkv_bias)
        self.v_proj = linear(config.dim, keys, bias=config.qkv_bias)
        self.o_proj = linear(queries, config.dim, bias=config.o_bias)
        self.mlp_norm = norm(config.dim)
        if config.qk_norm:
            self.q_norm = norm(config.head_dim)
            self.k_norm = norm(config.head_dim)
        if config.out_norms:
            self.attention_out_norm = norm(config.dim)
            self.mlp_out_norm = norm(config.dim)
        if config.experts:
            self.experts = Experts(
                config.dim,
                config.ff_dim,
                experts=config.experts,
                per_token=config.experts_per_token,
                normalized=config.experts_normalized,
                activation=config.activation,
                dtype=config.dtype,
                rngs=rngs,
            )
        else:
            self.gate_proj = linear(config.dim, config.ff_dim, bias=config.mlp_bias)
            self.up_proj = linear(config.dim, config.ff_dim, bias=config.mlp_bias)
            self.down_proj = linear(config.ff_dim, config.dim, bias=config.mlp_bias)
        self.config = config

    def __call__(
        self,
        hidden: Float[Array, "batch length dim"],
        cache: Cache | None,
        number: Int[Array, ""],
        allowed: Bool[Array, "batch 1 length keys"],
        turn: Tables,
    ) -> tuple[Float[Array, "batch length dim"], Cache | None]:
        """Applies the layer.

        Args:
            hidden: output of the layer before.
            cache: earlier keys and values, or None.
            number: of this layer, counted from 0.
            allowed: True where a token may look.
            turn: cosines and sines of the rotary positions.

        Returns:
            The hidden states, and the cache with this layer's keys and values.
        """
        mixed, cache = self.attend(self.attention_norm(hidden), cache, number, allowed, turn)
        hidden = hidden + (self.attention_out_norm(mixed) if self.config.out_norms else mixed)
        made = self.feed_forward(self.mlp_norm(hidden))
        return hidden + (self.mlp_out_norm(made) if self.config.out_norms else made), cache

    def attend(
        self,
        x: Float[Array, "batch length dim"],
        cache: Cache | None,
        number: Int[Array, ""],
        allowed: Bool[Array, "batch 1 length keys"],
        turn: Tables,
    ) -> tuple[Float[Array, "batch length dim"], Cache | None]:
        """Mixes information between tokens."""
        config = self.config
        by_head = (*x.shape[:2], -1, config.head_dim)
        q, k, v = (p(x).reshape(by_head) for p in (self.q_proj, self.k_proj, self.v_proj))
        if config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        cache, k, v = remember(cache, number, rotate(k, turn), v)
        mixed = attention(
            rotate(q, turn),
            k,
            v,
            allowed,
            config.dtype,
            scale=config.query_scale,
            softcap=config.score_cap,
            implementation=config.attention,
        )
        return self.o_proj(mixed.reshape(*x.shape[:2], -1)), cache

    def feed_forward(self, x: Float[Array, "batch length dim"]) -> Float[Array, "batch length dim"]:
        """Works on each token by itself."""
        if self.config.experts:
            return self.experts(x)
        activate = ACTIVATIONS[self.config.activation]
        return self.down_proj(activate(self.gate_proj(x)) * self.up_proj(x))


class Decoder(nnx.Module):
    """Token ids to logits of the next token.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.embed = Embedding(config.vocab_size, config.dim, dtype=config.dtype, rngs=rngs)
        self.layers = stack_layers(functools.partial(Layer, config), config.layers, rngs)
        self.norm = RMSNorm(
            config.dim, eps=config.eps, dtype=config.dtype, from_one=config.norm_from_one
        )
        if not config.tied:
            self.lm_head = Linear(
                config.dim, config.vocab_size, dtype=config.dtype, rngs=rngs, bias=False
            )
        self.config = config

    def __call__(
        self,
        ids: Int[Array, "batch length"],
        mask: Int[Array, "batch length"] | None = None,
        *,
        segments: Int[Array, "batch length"] | None = None,
        cache: Cache | None = None,
        embeds: Float[Array, "batch length dim"] | None = None,
        positions: Int[Array, "*kinds batch length"] | None = None,
        outputs: Outputs = "logits",
    ) -> Any:
        """Reads a batch of token sequences, or their continuation.

        Args:
            ids: token ids, below `vocab_size`.
            mask: 1 for real tokens, 0 for padding, on either side; None: all are real.
            segments: documents packed into a row: one number for the tokens of each, 0 for padding.
                Places restart in each, and none looks at another. None: a row is one document.
            cache: what came before these tokens; None: nothing did, and nothing is kept.
            embeds: what the first layer takes in place of `embed_tokens(ids)`.
            positions: rotary positions, `[3, batch, length]` with `mrope_sections`; None: the
                place of each token in its text.
            outputs: "logits", "last", "hidden" or a function, as `outputs.finish` describes them.

        Returns:
            Logits in float32, or what `outputs` asks for; with a cache also the cache, these tokens
            added.

        Raises:
            ValueError: the text is longer than the context or the cache, or a cache is given with
                segments.
        """
        check_length(ids.shape[1], cache, self.config.max_length)
        cache, order, keys = begin(cache, ids, mask, segments)
        surroundings = self.survey(order, keys, positions, segments)
        hidden, cache = run_stack(
            self.layers,
            lambda layer, carry, own: layer(*carry, own[0], *surroundings(own[1])),
            (self.embed_tokens(ids) if embeds is None else embeds, cache),
            scan=self.config.scan,
            remat=self.config.remat,
            each=(jnp.arange(self.config.layers), self.windowed()),
        )
        return finish(self.norm(hidden), order, cache, outputs, self.head)

    def windowed(self) -> Bool[Array, " layers"] | None:
        """Which layers have a window; None if none has."""
        return jnp.array(self.config.windowed) if any(self.config.windowed) else None

    def survey(
        self,
        order: Int[Array, "batch length"],
        keys: Int[Array, "batch keys"],
        positions: Int[Array, "*kinds batch length"] | None,
        segments: Int[Array, "batch length"] | None = None,
    ) -> Callable[[Any], tuple[Bool[Array, "..."], Tables]]:
        """Computes once for all layers where tokens may look and how far they are turned.

        Args:
            order: the place of each new token in its text.
            keys: the place of each key.
            positions: rotary positions; None: `order`.
            segments: the documents of each row; None: one.

        Returns:
            A function of a layer's entry in `windowed` that gives what that layer needs.
        """
        config, most = self.config, None
        if positions is None:
            positions = jnp.maximum(order, 0)
            if order.shape[1] > 1:  # for one token, the angles of all places are more work
                most = keys.shape[1]
        turn = tables(config.rope, positions, config.head_dim, config.mrope_sections, most)
        everything = (visible(order, keys, segments), turn)
        if not any(config.windowed):
            return lambda _: everything
        near = order[:, None, :, None] - keys[:, None, None, :] < config.window
        if config.local_rope is not None:
            turn = tables(config.local_rope, positions, config.head_dim, most=most)
        nearby = (everything[0] & near, turn)
        return lambda windowed: jax.tree.map(
            lambda a, b: jnp.where(windowed, a, b), nearby, everything
        )

    def embed_tokens(self, ids: Int[Array, "batch length"]) -> Float[Array, "batch length dim"]:
        """The vectors of token ids, as the first layer takes them."""
        # The factor is rounded to the model's type first, as it is in Gemma.
        return self.embed(ids) * jnp.asarray(self.config.embed_scale, self.config.dtype)

    def head(
        self, hidden: Float[Array, "batch length dim"]
    ) -> Float[Array, "batch length vocabulary"]:
        """The logits of the next token, in float32."""
        config = self.config
        if config.tied:
            logits = product("...d,vd->...v", hidden, self.embed.embedding[...], config.dtype)
        else:
            logits = product("...d,dv->...v", hidden, self.lm_head.kernel[...], config.dtype)
        if config.logit_cap is None:
            return logits
        return jnp.tanh(logits / config.logit_cap) * config.logit_cap
