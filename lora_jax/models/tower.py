"""Pre-norm transformer layers, as the image and text towers of ViT, CLIP and SigLIP stack them."""

import dataclasses
import functools

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from lora_jax.models.activations import ACTIVATIONS
from lora_jax.models.attention import attention
from lora_jax.models.checks import check_name
from lora_jax.models.layers import DTYPES, LayerNorm, Linear
from lora_jax.models.stack import REMAT_POLICIES, run_stack


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """The sizes that every tower has.

    Args:
        dim: width of the hidden state, a multiple of `heads`.
        layers: number of layers.
        heads: number of attention heads.
        ff_dim: width inside the feed-forward block.
        activation: a name in `ACTIVATIONS`.
        eps: added to the variance in layer normalisation.
        qkv_bias: whether the query, key and value projections have a bias.
        dtype: name of the type of activations and of the operands of products.
        scan: scan over the layers; otherwise unroll them, which is faster for few layers on CPU.
        remat: what the backward pass keeps, a name in `REMAT_POLICIES`.

    Raises:
        ValueError: `dim` is not a multiple of `heads`, or a name is unknown.
    """

    dim: int = 768
    layers: int = 12
    heads: int = 12
    ff_dim: int = 3072
    activation: str = "gelu"
    eps: float = 1e-12
    qkv_bias: bool = True
    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        check_name("dtype", self.dtype, DTYPES)
        check_name("activation", self.activation, ACTIVATIONS)
        check_name("remat", self.remat, REMAT_POLICIES)


class Layer(nnx.Module):
    """Self-attention and a feed-forward block, each added to its unnormalised input.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: TowerConfig, rngs: nnx.Rngs) -> None:
        linear = functools.partial(Linear, dtype=config.dtype, rngs=rngs)
        norm = functools.partial(LayerNorm, config.dim, eps=config.eps, dtype=config.dtype)
        self.attention_norm = norm()
        self.q_proj = linear(config.dim, config.dim, bias=config.qkv_bias)
        self.k_proj = linear(config.dim, config.dim, bias=config.qkv_bias)
        self.v_proj = linear(config.dim, config.dim, bias=config.qkv_bias)
        self.o_proj = linear(config.dim, config.dim)
        self.mlp_norm = norm()
        self.fc1 = linear(config.dim, config.ff_dim)
        self.fc2 = linear(config.ff_dim, config.dim)
        self.config = config

    def __call__(
        self,
        hidden: Float[Array, "batch length dim"],
        allowed: Bool[Array, "#batch 1 #length length"],
    ) -> Float[Array, "batch length dim"]:
        """Applies the layer; a position looks where `allowed` is True."""
        x = self.attention_norm(hidden)
        by_head = (*x.shape[:2], self.config.heads, -1)
        q, k, v = (p(x).reshape(by_head) for p in (self.q_proj, self.k_proj, self.v_proj))
        mixed = attention(q, k, v, allowed, self.config.dtype)
        hidden = hidden + self.o_proj(mixed.reshape(x.shape))
        activate = ACTIVATIONS[self.config.activation]
        return hidden + self.fc2(activate(self.fc1(self.mlp_norm(hidden))))


def run_layers(
    layers: Layer,
    hidden: Float[Array, "batch length dim"],
    allowed: Bool[Array, "#batch 1 #length length"],
    config: TowerConfig,
) -> Float[Array, "batch length dim"]:
    """Applies all stacked layers."""
    return run_stack(
        layers,
        lambda layer, hidden, _: layer(hidden, allowed),
        hidden,
        scan=config.scan,
        remat=config.remat,
    )


def everywhere_in(hidden: Float[Array, "batch length dim"]) -> Bool[Array, "1 1 1 length"]:
    """Allows every position to be looked at."""
    return jnp.ones((1, 1, 1, hidden.shape[1]), bool)
