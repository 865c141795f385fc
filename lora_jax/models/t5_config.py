"""The sizes and switches of T5."""

import dataclasses

from lora_jax.models.activations import ACTIVATIONS
from lora_jax.models.checks import check_name
from lora_jax.models.layers import DTYPES
from lora_jax.models.stack import REMAT_POLICIES


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
    """What makes one T5 or Flan-T5 different from another.

    Args:
        model_type: "t5", the key in `models.FAMILIES`.
        vocab_size: number of tokens.
        dim: width of the hidden state.
        layers: number of layers of the decoder.
        encoder_layers: number of layers of the encoder.
        heads: number of attention heads.
        head_dim: width of one head; all of them need not be as wide as the hidden state.
        ff_dim: width inside the feed-forward block.
        gated: the feed-forward block has a gate (version 1.1 and Flan-T5).
        activation: a name in `ACTIVATIONS`.
        buckets: number of buckets of relative positions, even; the encoder has half for either
            side.
        farthest: distance from which on all are in the last bucket.
        eps: added to the mean square in normalisation.
        tied: the output head is the embedding; otherwise a matrix of its own.
        scale_hidden: hidden states are divided by √dim before the output head.
        pad_id: id of the padding token.
        decoder_start_id: what the decoder's text begins with.
        eos_ids: ids of tokens that end a text.
        bos_id: None, as T5 has no token that begins a text.
        dtype: name of the type of activations and of the operands of products.
        scan: scan over the layers; otherwise unroll them, which is faster for few layers on CPU.
        remat: what the backward pass keeps, a name in `REMAT_POLICIES`.

    Raises:
        ValueError: a name is unknown, or the buckets reach farther than `farthest`.
    """

    model_type: str = "t5"
    vocab_size: int = 32128
    dim: int = 512
    layers: int = 6
    encoder_layers: int = 6
    heads: int = 8
    head_dim: int = 64
    ff_dim: int = 2048
    gated: bool = False
    activation: str = "relu"
    buckets: int = 32
    farthest: int = 128
    eps: float = 1e-6
    tied: bool = True
    scale_hidden: bool = True
    pad_id: int = 0
    decoder_start_id: int = 0
    eos_ids: tuple[int, ...] = (1,)
    bos_id: int | None = None
    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"

    def __post_init__(self) -> None:
        check_name("dtype", self.dtype, DTYPES)
        check_name("activation", self.activation, ACTIVATIONS)
        check_name("remat", self.remat, REMAT_POLICIES)
        if self.buckets % 4:
            raise ValueError(f"buckets is {self.buckets}, which is not a multiple of 4")
        if self.farthest <= self.buckets // 2:
            raise ValueError(
                f"farthest is {self.farthest}, but with {self.buckets} buckets the distances below "
                f"{self.buckets // 2} have one each"
            )

    @property
    def max_length(self) -> None:
        """Texts may be of any length, as there are relative positions only."""
        return None

    @property
    def kv_heads(self) -> int:
        """Every head has keys and values of its own."""
        return self.heads
