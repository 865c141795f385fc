"""A feed-forward block of many experts, of which each token takes a few (Shazeer et al., 2017)."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lora_jax.models.activations import ACTIVATIONS
from lora_jax.models.layers import INIT_SCALE, Linear
from lora_jax.models.product import grouped_product


class ExpertLinear(nnx.Module):
    """One linear map for each expert, with the kernels stored as [experts, in, out].

    Args:
        experts: number of experts.
        ins: size of the last axis of the input.
        outs: size of the last axis of the output.
        dtype: name of the type of the operands and of the output.
        rngs: source of the initial kernels.
    """

    def __init__(self, experts: int, ins: int, outs: int, *, dtype: str, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.normal(INIT_SCALE)
        self.kernel = nnx.Param(init(rngs.params(), (experts, ins, outs), jnp.dtype(dtype)))
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "rows ins"], sizes: Int[Array, " experts"]
    ) -> Float[Array, "rows outs"]:
        """Maps rows sorted by expert, `sizes[i]` of them by expert i."""
        return grouped_product(x, self.kernel[...], sizes, self.dtype).astype(self.dtype)


class Experts(nnx.Module):
    """Gated feed-forward blocks behind a router.

    Args:
        dim: width of the hidden state.
        ff_dim: width inside one expert.
        experts: number of experts.
        per_token: how many experts each token takes.
        normalized: whether the weights of a token's experts are made to add up to 1.
        activation: a name in `ACTIVATIONS`.
        dtype: name of the type of the operands and of the output.
        rngs: source of the initial weights.
    """

    def __init__(
        self,
        dim: int,
        ff_dim: int,
        *,
        experts: int,
        per_token: int,
        normalized: bool,
        activation: str,
        dtype: str,
        rngs: nnx.Rngs,
    ) -> None:
        linear = functools.partial(ExpertLinear, experts, dtype=dtype, rngs=rngs)
        self.router = Linear(dim, experts, dtype=dtype, rngs=rngs, bias=False)
        self.gate_proj = linear(dim, ff_dim)
        self.up_proj = linear(dim, ff_dim)
        self.down_proj = linear(ff_dim, dim)
        self.experts = experts
        self.per_token = per_token
        self.normalized = normalized
        self.activation = activation

    def __call__(self, hidden: Float[Array, "batch length dim"]) -> Float[Array, "..."]:
        """Adds up what each token's experts make of it, weighted by the router."""
        tokens = hidden.reshape(-1, hidden.shape[-1])
        weights, chosen = self.route(tokens)
        # Each token stands once for each of its experts; sorted by expert the rows form groups.
        by_expert = jnp.argsort(chosen.reshape(-1))
        sizes = jnp.bincount(chosen.reshape(-1), length=self.experts).astype(jnp.int32)
        rows = tokens[by_expert // self.per_token]
        gate = ACTIVATIONS[self.activation](self.gate_proj(rows, sizes))
        made = self.down_proj(gate * self.up_proj(rows, sizes), sizes)
        made = made[jnp.argsort(by_expert)].reshape(*chosen.shape, -1)
        return (made * weights[..., None]).sum(1).astype(hidden.dtype).reshape(hidden.shape)

    def route(
        self, tokens: Float[Array, "rows dim"]
    ) -> tuple[Float[Array, "rows per_token"], Int[Array, "rows per_token"]]:
        """The experts of each token and their weights, in at least float32."""
        scores = self.router(tokens)
        scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
        weights, chosen = jax.lax.top_k(jax.nn.softmax(scores, axis=-1), self.per_token)
        if self.normalized:
            weights = weights / weights.sum(-1, keepdims=True)
        return weights, chosen
