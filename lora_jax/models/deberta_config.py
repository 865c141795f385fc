"""The sizes and switches of DeBERTa v2 and v3."""

import dataclasses

from lora_jax.models.activations import ACTIVATIONS
from lora_jax.models.checks import check_name
from lora_jax.models.layers import DTYPES
from lora_jax.models.stack import REMAT_POLICIES
from lora_jax.models.task_heads import check_head


@dataclasses.dataclass(frozen=True, kw_only=True)
class DebertaConfig:
    """What makes one DeBERTa v2 or v3 different from another.

    Args:
        model_type: "deberta-v2", which version 3 bears too.
        vocab_size: number of tokens.
        dim: width of the hidden state, a multiple of `heads`.
        embed_dim: width of the embedding table; if it is not `dim`, a matrix maps one to the other.
        layers: number of layers.
        heads: number of attention heads.
        ff_dim: width inside the feed-forward block.
        positions: rows of the position table, if there is one; else a text may be of any length.
        absolute: absolute positions are added to the embeddings.
        types: rows of the token type table; 0: there is none.
        relative: attention knows relative positions.
        content_to_position: queries are scored with the vectors of relative positions.
        position_to_content: the vectors of relative positions are scored with keys.
        buckets: number of buckets of distances on either side; 0: every distance has its own.
        farthest: the distance at which buckets end, and beyond which all distances are one.
        share_projections: relative positions use the projections of queries and keys.
        relative_norm: the vectors of relative positions are normalised.
        conv_width: width of the convolution beside the first layer, odd; 0: there is none.
        conv_groups: groups of channels in that convolution.
        conv_activation: a name in `ACTIVATIONS`.
        pad_id: id of the padding token.
        activation: a name in `ACTIVATIONS`.
        pooler_activation: that of heads that judge whole texts.
        eps: added to the variance in layer normalisation.
        legacy: whether checkpoints name the masked language model's head as version 1 does.
        head: what is computed from the hidden states, a name in `task_heads.HEADS`; None: nothing.
        classes: number of classes, for heads that have several outputs.
        dtype: name of the type of activations and of the operands of products.
        scan: scan over the layers; otherwise unroll them, which is faster for few layers on CPU.
        remat: what the backward pass keeps, a name in `REMAT_POLICIES`.

    Raises:
        ValueError: sizes do not fit each other, or a name is unknown.
    """

    model_type: str = "deberta-v2"
    vocab_size: int = 128100
    dim: int = 768
    embed_dim: int = 768
    layers: int = 12
    heads: int = 12
    ff_dim: int = 3072
    positions: int = 512
    absolute: bool = False
    types: int = 0
    relative: bool = True
    content_to_position: bool = True
    position_to_content: bool = True
    buckets: int = 256
    farthest: int = 512
    share_projections: bool = True
    relative_norm: bool = True
    conv_width: int = 0
    conv_groups: int = 1
    conv_activation: str = "tanh"
    pad_id: int = 0
    activation: str = "gelu"
    pooler_activation: str = "gelu"
    eps: float = 1e-7
    legacy: bool = True
    head: str | None = None
    classes: int = 2
    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.conv_width and not self.conv_width % 2:
            raise ValueError(f"conv_width {self.conv_width} is even, but only odd ones keep length")
        if self.dim % self.conv_groups:
            raise ValueError(f"dim {self.dim} is not a multiple of conv_groups {self.conv_groups}")
        if self.relative and self.buckets and self.farthest <= self.buckets // 2 + 1:
            raise ValueError(
                f"farthest is {self.farthest}, but with {self.buckets} buckets the distances up to "
                f"{self.buckets // 2} have one each"
            )
        check_name("dtype", self.dtype, DTYPES)
        check_name("remat", self.remat, REMAT_POLICIES)
        for field in ("activation", "conv_activation", "pooler_activation"):
            check_name(field, getattr(self, field), ACTIVATIONS)
        check_head(self.head, self.classes)
        if self.head == "masked_lm" and not self.legacy and self.embed_dim != self.dim:
            raise ValueError(
                f"a masked_lm head with legacy false needs embed_dim {self.embed_dim} to be "
                f"dim {self.dim}"
            )

    @property
    def max_length(self) -> int:
        """The longest text in tokens that the model was made for."""
        return self.positions

    @property
    def span(self) -> int:
        """Half the number of rows of the table of relative positions."""
        return self.buckets or self.farthest

    @property
    def score_kinds(self) -> int:
        """How many products are summed in a score."""
        return 1 + self.content_to_position + self.position_to_content
