"""GPT-2 and GPT-3 (Radford et al., 2019; Brown et al., 2020)."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from lora_jax.models.activations import ACTIVATIONS
from lora_jax.models.attention import IMPLEMENTATIONS, attention
from lora_jax.models.cache import Cache, begin, remember, visible
from lora_jax.models.checks import check_name
from lora_jax.models.layers import DTYPES, Embedding, LayerNorm, Linear
from lora_jax.models.outputs import Outputs, check_length, finish
from lora_jax.models.product import product
from lora_jax.models.stack import REMAT_POLICIES, run_stack, stack_layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """What makes one GPT-2 or GPT-3 different from another.

    Args:
        vocab_size: number of tokens.
        dim: width of the hidden state, a multiple of `heads`.
        layers: number of layers.
        heads: number of attention heads.
        ff_dim: width inside the feed-forward block.
        positions: rows of the position table.
        activation: a name in `ACTIVATIONS`.
        eps: added to the variance in layer normalisation.
        scale_scores: divide attention scores by √head_dim.
        scale_scores_by_layer: divide them further by the number of the layer, counted from 1.
        tied: the output head is the embedding; otherwise a matrix of its own.
        pad_id: id of the padding token; None if the model has none.
        bos_id: id of the token that begins a text; None if the model has none.
        eos_ids: ids of tokens that end a text.
        dtype: name of the type of activations and of the operands of products.
        scan: scan over the layers; otherwise unroll them, which is faster for few layers on CPU.
        remat: what the backward pass keeps, a name in `REMAT_POLICIES`.
        attention: how attention is computed, a name in `attention.IMPLEMENTATIONS`.

    Raises:
        ValueError: `dim` is not a multiple of `heads`, or a name is unknown.
    """

    model_type: str = "gpt2"
    vocab_size: int = 50257
    dim: int = 768
    layers: int = 12
    heads: int = 12
    ff_dim: int = 3072
    positions: int = 1024
    activation: str = "gelu_new"
    eps: float = 1e-5
    scale_scores: bool = True
    scale_scores_by_layer: bool = False
    tied: bool = True
    pad_id: int | None = None
    bos_id: int | None = 50256
    eos_ids: tuple[int, ...] = (50256,)
    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"
    attention: str = "plain"

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        check_name("dtype", self.dtype, DTYPES)
        check_name("activation", self.activation, ACTIVATIONS)
        check_name("remat", self.remat, REMAT_POLICIES)
        check_name("attention", self.attention, IMPLEMENTATIONS)

    @property
    def max_length(self) -> int:
        """The longest text in tokens."""
        return self.positions

    @property
    def kv_heads(self) -> int:
        """Every head has keys and values of its own."""
        return self.heads

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.heads


# Layers, width and heads of table 2.1 of Brown et al., 2020. The 13B row of that table says 5140,
# which is not 40 heads of 128, and the 1.3B row 24 heads of 128, which are not 2048.
_GPT3_SHAPES = {
    "125M": (12, 768, 12),
    "350M": (24, 1024, 16),
    "760M": (24, 1536, 16),
    "1.3B": (24, 2048, 16),
    "2.7B": (32, 2560, 32),
    "6.7B": (32, 4096, 32),
    "13B": (40, 5120, 40),
    "175B": (96, 12288, 96),
}
GPT3_SIZES = tuple(_GPT3_SHAPES)


def gpt3_config(size: str, **options: object) -> GPT2Config:
    """The config of a GPT-3, with dense attention in every layer.

    Args:
        size: "125M", "350M", "760M", "1.3B", "2.7B", "6.7B", "13B" or "175B".
        **options: further fields of `GPT2Config`.

    Returns:
        The config.

    Raises:
        ValueError: the size is unknown.

    >>> gpt3_config("175B").layers
    96
    """
    check_name("size", size, _GPT3_SHAPES)
    layers, dim, heads = _GPT3_SHAPES[size]
    shape = {"layers": layers, "dim": dim, "heads": heads, "ff_dim": 4 * dim, "positions": 2048}
    return GPT2Config(**(shape | options))  # type: ignore[arg-type]


class Layer(nnx.Module):
    """Causal self-attention and a feed-forward block, each added to its unnormalised input."""

    def __init__(self, config: GPT2Config, rngs: nnx.Rngs) -> None:
        linear = functools.partial(Linear, dtype=config.dtype, rngs=rngs)
        norm = functools.partial(LayerNorm, config.dim, eps=config.eps, dtype=config.dtype)
        self.attention_norm = norm()
        self.q_proj = linear(config.dim, config.dim)
        self.k_proj = linear(config.dim, config.dim)
        self.v_proj = linear(config.dim, config.dim)
        self.o_proj = linear(config.dim, config.dim)
        self.mlp_norm = norm()
        self.fc1 = linear(config.dim, config.ff_dim)
        self.fc2 = linear(config.ff_dim, config.dim)
        self.config = config

    def __call__(
        self,
        hidden: Float[Array, "batch length dim"],
        cache: Cache | None,
        number: Int[Array, ""],
        allowed: Bool[Array, "batch 1 length keys"],
    ) -> tuple[Float[Array, "batch length dim"], Cache | None]:
        """Applies the layer.

        Args:
            hidden: output of the layer before.
            cache: earlier keys and values, or None.
            number: of this layer, counted from 0.
            allowed: True where a token may look.

        Returns:
            The hidden states, and the cache with this layer's keys and values.
        """
        config = self.config
        x = self.attention_norm(hidden)
        by_head = (*x.shape[:2], config.heads, config.head_dim)
        q, k, v = (p(x).reshape(by_head) for p in (self.q_proj, self.k_proj, self.v_proj))
        cache, k, v = remember(cache, number, k, v)
        if config.scale_scores_by_layer:
            q = (q / (number + 1)).astype(q.dtype)
        scale = None if config.scale_scores else 1.0
        mixed = attention(
            q, k, v, allowed, config.dtype, scale=scale, implementation=config.attention
        )
        hidden = hidden + self.o_proj(mixed.reshape(x.shape))
        activate = ACTIVATIONS[config.activation]
        return hidden + self.fc2(activate(self.fc1(self.mlp_norm(hidden)))), cache


class GPT2(nnx.Module):
    """Token ids to logits of the next token.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: GPT2Config, rngs: nnx.Rngs) -> None:
        table = functools.partial(Embedding, dim=config.dim, dtype=config.dtype, rngs=rngs)
        self.embed = table(config.vocab_size)
        self.positions = table(config.positions)
        self.layers = stack_layers(functools.partial(Layer, config), config.layers, rngs)
        self.norm = LayerNorm(config.dim, eps=config.eps, dtype=config.dtype)
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
        outputs: Outputs = "logits",
    ) -> Any:
        """Reads a batch of token sequences, or their continuation.

        Args:
            ids: token ids, below `vocab_size`.
            mask: 1 for real tokens, 0 for padding, on either side; None: all are real.
            segments: documents packed into a row: one number for the tokens of each, 0 for padding.
                Places restart in each, and none looks at another. None: a row is one document.
            cache: what came before these tokens; None: nothing did, and nothing is kept.
            outputs: "logits", "last", "hidden" or a function, as `outputs.finish` describes them.

        Returns:
            Logits in float32, or what `outputs` asks for; with a cache also the cache, these tokens
            added.

        Raises:
            ValueError: the text is longer than the position table or the cache, or a cache is given
                with segments.
        """
        check_length(ids.shape[1], cache, self.config.max_length)
        cache, order, keys = begin(cache, ids, mask, segments)
        allowed = visible(order, keys, segments)
        hidden = self.embed(ids) + self.positions(jnp.maximum(order, 0))
        hidden, cache = run_stack(
            self.layers,
            lambda layer, carry, number: layer(*carry, number, allowed),
            (hidden, cache),
            scan=self.config.scan,
            remat=self.config.remat,
            each=jnp.arange(self.config.layers),
        )
        return finish(self.norm(hidden), order, cache, outputs, self.head)

    def head(
        self, hidden: Float[Array, "batch length dim"]
    ) -> Float[Array, "batch length vocabulary"]:
        """The logits of the next token, in float32."""
        dtype = self.config.dtype
        if self.config.tied:
            return product("...d,vd->...v", hidden, self.embed.embedding[...], dtype)
        return product("...d,dv->...v", hidden, self.lm_head.kernel[...], dtype)
