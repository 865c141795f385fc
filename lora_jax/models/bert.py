"""BERT and RoBERTa encoders (Devlin et al., 2018; Liu et al., 2019)."""

import dataclasses
import functools

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lora_jax.models.activations import ACTIVATIONS
from lora_jax.models.attention import attention
from lora_jax.models.checks import check_name
from lora_jax.models.layers import DTYPES, Embedding, LayerNorm, Linear
from lora_jax.models.stack import REMAT_POLICIES, run_stack, stack_layers
from lora_jax.models.task_heads import check_head, make_head, predict


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
    """What makes one BERT or RoBERTa different from another.

    Args:
        model_type: "bert" or "roberta", the key in `models.FAMILIES`.
        vocab_size: number of tokens.
        dim: width of the hidden state, a multiple of `heads`.
        layers: number of layers.
        heads: number of attention heads.
        ff_dim: width inside the feed-forward block.
        positions: rows of the position table.
        types: rows of the token type table.
        pad_id: id of the padding token.
        positions_skip_padding: RoBERTa's numbering: real tokens count from `pad_id + 1`, padding
            stays at `pad_id`. BERT counts every token from 0.
        activation: a name in `ACTIVATIONS`.
        eps: added to the variance in layer normalisation.
        pooler: keep BERT's pooler (dense layer of the first token) among the parameters, for
            `heads.project`; a head has its own.
        head: what is computed from the hidden states, a name in `task_heads.HEADS`; None: nothing.
        classes: number of classes, for heads that have several outputs.
        dtype: name of the type of activations and of the operands of products.
        scan: scan over the layers; otherwise unroll them, which is faster for few layers on CPU.
        remat: what the backward pass keeps, a name in `REMAT_POLICIES`.

    Raises:
        ValueError: `dim` is not a multiple of `heads`, a name is unknown, or both a pooler and a
            head are asked for.
    """

    model_type: str = "bert"
    vocab_size: int = 30522
    dim: int = 768
    layers: int = 12
    heads: int = 12
    ff_dim: int = 3072
    positions: int = 512
    types: int = 2
    pad_id: int = 0
    positions_skip_padding: bool = False
    activation: str = "gelu"
    eps: float = 1e-12
    pooler: bool = False
    head: str | None = None
    classes: int = 2
    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        check_name("dtype", self.dtype, DTYPES)
        check_name("activation", self.activation, ACTIVATIONS)
        check_name("remat", self.remat, REMAT_POLICIES)
        check_head(self.head, self.classes)
        if self.pooler and self.head:
            raise ValueError(f"pooler is for models without a head, but head is {self.head!r}")

    @property
    def max_length(self) -> int:
        """The longest text in tokens."""
        return self.positions - (self.pad_id + 1 if self.positions_skip_padding else 0)


class Layer(nnx.Module):
    """Self-attention and a feed-forward block, each added to its input and then normalised."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs) -> None:
        linear = functools.partial(Linear, dtype=config.dtype, rngs=rngs)
        norm = functools.partial(LayerNorm, config.dim, eps=config.eps, dtype=config.dtype)
        self.q_proj = linear(config.dim, config.dim)
        self.k_proj = linear(config.dim, config.dim)
        self.v_proj = linear(config.dim, config.dim)
        self.o_proj = linear(config.dim, config.dim)
        self.attention_norm = norm()
        self.fc1 = linear(config.dim, config.ff_dim)
        self.fc2 = linear(config.ff_dim, config.dim)
        self.output_norm = norm()
        self.config = config

    def __call__(
        self, hidden: Float[Array, "batch length dim"], mask: Int[Array, "batch length"]
    ) -> Float[Array, "batch length dim"]:
        """Applies the layer; padding (mask 0) is looked at by no token."""
        hidden = self.attention_norm(hidden + self.attend(hidden, mask))
        activate = ACTIVATIONS[self.config.activation]
        return self.output_norm(hidden + self.fc2(activate(self.fc1(hidden))))

    def attend(
        self, hidden: Float[Array, "batch length dim"], mask: Int[Array, "batch length"]
    ) -> Float[Array, "batch length dim"]:
        """Mixes information between tokens."""
        by_head = (*hidden.shape[:2], self.config.heads, -1)
        q, k, v = (p(hidden).reshape(by_head) for p in (self.q_proj, self.k_proj, self.v_proj))
        mixed = attention(q, k, v, mask[:, None, None, :] != 0, self.config.dtype)
        return self.o_proj(mixed.reshape(hidden.shape))


class Encoder(nnx.Module):
    """Token ids to hidden states, or to the logits of a head.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: BertConfig, rngs: nnx.Rngs) -> None:
        table = functools.partial(Embedding, dim=config.dim, dtype=config.dtype, rngs=rngs)
        self.embed = table(config.vocab_size)
        self.positions = table(config.positions)
        self.types = table(config.types)
        self.embed_norm = LayerNorm(config.dim, eps=config.eps, dtype=config.dtype)
        self.layers = stack_layers(functools.partial(Layer, config), config.layers, rngs)
        if config.pooler:
            self.pooler = Linear(config.dim, config.dim, dtype=config.dtype, rngs=rngs)
        if config.head is not None:
            # RoBERTa's masked language model has this activation whatever its layers have.
            masked = "gelu" if config.model_type == "roberta" else config.activation
            self.head = make_head(config, rngs, masked=masked, table_dim=config.dim)
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
        """Encodes a batch of token sequences.

        Args:
            ids: token ids, below `vocab_size`.
            mask: 1 for real tokens, 0 for padding, which no token looks at.
            type_ids: 0 for the first text of a pair, 1 for the second; all 0 if absent.

        Returns:
            The hidden states of the last layer, in `config.dtype`.

        Raises:
            ValueError: the sequences are longer than the position table.
        """
        check_length(ids.shape[1], self.config.max_length)
        type_ids = jnp.zeros_like(ids) if type_ids is None else type_ids
        hidden = self.embed(ids) + self.types(type_ids) + self.positions(self.number(ids))
        return run_stack(
            self.layers,
            lambda layer, hidden, _: layer(hidden, mask),
            self.embed_norm(hidden),
            scan=self.config.scan,
            remat=self.config.remat,
        )

    def number(self, ids: Int[Array, "batch length"]) -> Int[Array, "#batch length"]:
        """Gives each token its row of the position table."""
        if not self.config.positions_skip_padding:
            return jnp.arange(ids.shape[1])[None]
        real = (ids != self.config.pad_id).astype(jnp.int32)
        return jnp.cumsum(real, axis=1) * real + self.config.pad_id


def check_length(length: int, limit: int) -> None:
    """Checks that an encoder has positions for all tokens.

    Raises:
        ValueError: it has not.
    """
    if length > limit:
        raise ValueError(
            f"the batch is {length} tokens long, but the model has positions for {limit}; "
            f"encode the texts with length={limit} and truncate=True"
        )
