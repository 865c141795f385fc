"""DeBERTa v2 and v3 encoders (He et al., 2020 and 2021)."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from lora_jax.models.activations import ACTIVATIONS
from lora_jax.models.attention import attention
from lora_jax.models.bert import check_length
from lora_jax.models.deberta_config import DebertaConfig
from lora_jax.models.disentangled import bucket, skew
from lora_jax.models.layers import INIT_SCALE, Embedding, LayerNorm, Linear
from lora_jax.models.product import product
from lora_jax.models.stack import run_stack, stack_layers
from lora_jax.models.task_heads import make_head, predict


class Distances(NamedTuple):
    """The vectors of all distances within a text, `[2·length, dim]`, in both directions.

    Attributes:
        falling: of the distances length - 1 to -length.
        rising: of the distances -(length - 1) to length.
    """

    falling: Float[Array, "twice dim"]
    rising: Float[Array, "twice dim"]


class Layer(nnx.Module):
    """Disentangled self-attention and a feed-forward block, each added to its input, normalised."""

    def __init__(self, config: DebertaConfig, rngs: nnx.Rngs) -> None:
        linear = functools.partial(Linear, dtype=config.dtype, rngs=rngs)
        norm = functools.partial(LayerNorm, config.dim, eps=config.eps, dtype=config.dtype)
        self.q_proj = linear(config.dim, config.dim)
        self.k_proj = linear(config.dim, config.dim)
        self.v_proj = linear(config.dim, config.dim)
        self.o_proj = linear(config.dim, config.dim)
        if config.relative and not config.share_projections:
            if config.content_to_position:
                self.pos_key_proj = linear(config.dim, config.dim)
            if config.position_to_content:
                self.pos_query_proj = linear(config.dim, config.dim)
        self.attention_norm = norm()
        self.fc1 = linear(config.dim, config.ff_dim)
        self.fc2 = linear(config.ff_dim, config.dim)
        self.output_norm = norm()
        self.config = config

    def __call__(
        self,
        hidden: Float[Array, "batch length dim"],
        mask: Int[Array, "batch length"],
        distances: Distances | None,
    ) -> Float[Array, "batch length dim"]:
        """Applies the layer; padding (mask 0) is looked at by no token."""
        hidden = self.attention_norm(hidden + self.attend(hidden, mask, distances))
        activate = ACTIVATIONS[self.config.activation]
        return self.output_norm(hidden + self.fc2(activate(self.fc1(hidden))))

    def attend(
        self,
        hidden: Float[Array, "batch length dim"],
        mask: Int[Array, "batch length"],
        distances: Distances | None,
    ) -> Float[Array, "batch length dim"]:
        """Mixes information between tokens."""
        q, k, v = (self._by_head(p(hidden)) for p in (self.q_proj, self.k_proj, self.v_proj))
        scale = (q.shape[-1] * self.config.score_kinds) ** -0.5
        bias = None if distances is None else self.score_distances(q, k, distances, scale)
        allowed = mask[:, None, None, :] != 0
        mixed = attention(q, k, v, allowed, self.config.dtype, scale=scale, bias=bias)
        return self.o_proj(mixed.reshape(hidden.shape))

    def score_distances(
        self,
        q: Float[Array, "batch length heads head_dim"],
        k: Float[Array, "batch length heads head_dim"],
        distances: Distances,
        scale: float,
    ) -> Float[Array, "batch heads length length"] | None:
        """What relative positions add to the scores (He et al., 2020, equations 2 and 4).

        Each token is scored with all distances, 2·length of them, and the scores are then shifted
        into their places: nothing of the size `[heads, length, length, head_dim]` is made.
        """
        config, total = self.config, None
        if config.content_to_position:
            project = self.k_proj if config.share_projections else self.pos_key_proj
            keys = self._by_head(project(distances.falling))
            total = skew(product("bqhd,chd->bhqc", q, keys, config.dtype))
        if config.position_to_content:
            project = self.q_proj if config.share_projections else self.pos_query_proj
            queries = self._by_head(project(distances.rising))
            scores = skew(product("bkhd,chd->bhkc", k, queries, config.dtype)).swapaxes(2, 3)
            total = scores if total is None else total + scores
        return None if total is None else total * scale

    def _by_head(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch heads head_dim"]:
        return x.reshape(*x.shape[:-1], self.config.heads, -1)


class Convolution(nnx.Module):
    """A convolution of the embeddings along the text, added to what the first layer returns.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: DebertaConfig, rngs: nnx.Rngs) -> None:
        shape = (config.conv_width, config.dim // config.conv_groups, config.dim)
        init = nnx.initializers.normal(INIT_SCALE)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.dtype(config.dtype)))
        self.bias = nnx.Param(jnp.zeros(config.dim, config.dtype))
        self.norm = LayerNorm(config.dim, eps=config.eps, dtype=config.dtype)
        self.config = config

    def __call__(
        self,
        first: Float[Array, "batch length dim"],
        embedded: Float[Array, "batch length dim"],
        mask: Int[Array, "batch length"],
    ) -> Float[Array, "batch length dim"]:
        """Adds the convolution of `embedded` to `first`, what the first layer has returned."""
        dtype = self.config.dtype
        convolved = lax.conv_general_dilated(
            embedded.astype(dtype),
            self.kernel[...].astype(dtype),
            window_strides=(1,),
            padding="SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=self.config.conv_groups,
            preferred_element_type=jnp.promote_types(dtype, jnp.float32),
        )
        real = (mask != 0)[..., None]
        activate = ACTIVATIONS[self.config.conv_activation]
        added = activate(jnp.where(real, convolved + self.bias[...], 0)).astype(dtype)
        return jnp.where(real, self.norm(first + added), 0)


class Encoder(nnx.Module):
    """Token ids to hidden states, or to the logits of a head.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: DebertaConfig, rngs: nnx.Rngs) -> None:
        table = functools.partial(Embedding, dtype=config.dtype, rngs=rngs)
        norm = functools.partial(LayerNorm, config.dim, eps=config.eps, dtype=config.dtype)
        self.embed = table(config.vocab_size, config.embed_dim)
        if config.absolute:
            self.positions = table(config.positions, config.embed_dim)
        if config.types:
            self.types = table(config.types, config.embed_dim)
        if config.embed_dim != config.dim:
            self.embed_proj = Linear(
                config.embed_dim, config.dim, dtype=config.dtype, rngs=rngs, bias=False
            )
        self.embed_norm = norm()
        if config.relative:
            self.relative = table(2 * config.span, config.dim)
            if config.relative_norm:
                self.relative_norm = norm()
        self.layers = stack_layers(functools.partial(Layer, config), config.layers, rngs)
        if config.conv_width:
            self.conv = Convolution(config, rngs)
        if config.head is not None:
            self.head = make_head(
                config,
                rngs,
                pooled=config.pooler_activation,
                masked=config.activation,
                table_dim=config.embed_dim,
            )
        self.config = config

    def __call__(
        self,
        ids: Int[Array, "*batch length"],
        mask: Int[Array, "*batch length"],
        type_ids: Int[Array, "*batch length"] | None = None,
    ) -> Float[Array, "..."]:
        """Encodes a batch of token sequences and applies the head, as `task_heads.predict` says."""
        return predict(self, ids, mask, type_ids)

    def encode(
        self,
        ids: Int[Array, "batch length"],
        mask: Int[Array, "batch length"],
        type_ids: Int[Array, "batch length"] | None = None,
    ) -> Float[Array, "batch length dim"]:
        """Computes the hidden states of the last layer, in `config.dtype`.

        Args:
            ids: token ids, below `vocab_size`.
            mask: 1 for real tokens, 0 for padding, which no token looks at.
            type_ids: 0 for the first text of a pair, 1 for the second; all 0 if absent.

        Returns:
            The hidden states.

        Raises:
            ValueError: the sequences are longer than the position table.
        """
        embedded = self.embed_tokens(ids, mask, type_ids)
        distances = self.embed_distances(ids.shape[1])

        def call(layer: Layer, hidden: Array, number: Array) -> Array:
            hidden = layer(hidden, mask, distances)
            if not self.config.conv_width:
                return hidden
            # A branch, so that the scan needs no convolution of its own in every layer.
            return lax.cond(
                number == 0, lambda h: self.conv(h, embedded, mask), lambda h: h, hidden
            )

        return run_stack(
            self.layers,
            call,
            embedded,
            scan=self.config.scan,
            remat=self.config.remat,
            each=jnp.arange(self.config.layers),
        )

    def embed_tokens(
        self,
        ids: Int[Array, "batch length"],
        mask: Int[Array, "batch length"],
        type_ids: Int[Array, "batch length"] | None,
    ) -> Float[Array, "batch length dim"]:
        """Makes what the first layer takes: zero for padding."""
        config = self.config
        hidden = self.embed(ids)
        if config.absolute:
            check_length(ids.shape[1], config.positions)
            hidden = hidden + self.positions(jnp.arange(ids.shape[1]))
        if config.types:
            hidden = hidden + self.types(jnp.zeros_like(ids) if type_ids is None else type_ids)
        if config.embed_dim != config.dim:
            hidden = self.embed_proj(hidden)
        return jnp.where((mask != 0)[..., None], self.embed_norm(hidden), 0)

    def embed_distances(self, length: int) -> Distances | None:
        """Looks up the vectors of all distances within a text, once for all layers."""
        config = self.config
        if not config.relative or config.score_kinds == 1:
            return None
        falling = np.arange(length - 1, -length - 1, -1)
        return Distances(self._look_up(falling), self._look_up(-falling))

    def _look_up(self, distances: Int[np.ndarray, " count"]) -> Float[Array, "count dim"]:
        config = self.config
        numbers = bucket(distances, config.buckets, config.farthest)
        rows = np.clip(numbers + config.span, 0, 2 * config.span - 1)
        vectors = self.relative(jnp.asarray(rows))
        return self.relative_norm(vectors) if config.relative_norm else vectors
