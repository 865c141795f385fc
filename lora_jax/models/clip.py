"""CLIP and SigLIP: images and texts as vectors of one space.

Radford et al., 2021; Zhai et al., 2023.
"""

import dataclasses
import functools
import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lora_jax.models.checks import check_name
from lora_jax.models.heads import normalize
from lora_jax.models.layers import Embedding, LayerNorm, Linear
from lora_jax.models.parts import share
from lora_jax.models.product import product
from lora_jax.models.stack import stack_layers
from lora_jax.models.tower import Layer, TowerConfig, run_layers
from lora_jax.models.vision import VisionConfig, VisionTower

OUTPUTS = ("logits", "images", "texts")
POOLINGS = ("end", "highest", "last")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig(TowerConfig):
    """What makes one text tower different from another.

    Args:
        vocab_size: number of tokens.
        positions: rows of the position table.
        causal: a token looks only at itself and those before it (CLIP).
        pooling: which token stands for the text: "end", the first that is `eos_id`; "highest", the
            one of the highest id, as CLIP files with a wrong `eos_token_id` mean it; "last", the
            last one, padding or not (SigLIP).
        eos_id: id of the token that ends a text.
        pad_id: id of the padding token.
        projection_dim: width of the text's vector.
        projection_bias: whether the matrix that makes it has a bias.
    """

    vocab_size: int = 49408
    positions: int = 77
    causal: bool = True
    pooling: str = "end"
    eos_id: int = 49407
    pad_id: int | None = 1
    projection_dim: int = 512
    projection_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("pooling", self.pooling, POOLINGS)


class TextTower(nnx.Module):
    """Token ids to one vector for each text.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: TextConfig, rngs: nnx.Rngs) -> None:
        table = functools.partial(Embedding, dim=config.dim, dtype=config.dtype, rngs=rngs)
        self.embed = table(config.vocab_size)
        self.positions = table(config.positions)
        self.layers = stack_layers(functools.partial(Layer, config), config.layers, rngs)
        self.norm = LayerNorm(config.dim, eps=config.eps, dtype=config.dtype)
        self.projection = Linear(
            config.dim,
            config.projection_dim,
            dtype=config.dtype,
            rngs=rngs,
            bias=config.projection_bias,
        )
        self.config = config

    def __call__(
        self, ids: Int[Array, "batch length"], mask: Int[Array, "batch length"] | None = None
    ) -> Float[Array, "batch vector"]:
        """Reads a batch of texts, padded on the right.

        Args:
            ids: token ids, below `vocab_size`.
            mask: 1 for real tokens, 0 for padding, which no token looks at; None: all are real.

        Returns:
            The projected state of the token that stands for the text.

        Raises:
            ValueError: the texts are longer than the position table.
        """
        config, length = self.config, ids.shape[1]
        if length > config.positions:
            raise ValueError(
                f"the texts are {length} tokens long, but the model has positions for "
                f"{config.positions}; encode them with length={config.positions} and truncate=True"
            )
        hidden = self.embed(ids) + self.positions(jnp.arange(length))
        allowed = jnp.ones((1, 1, 1, length), bool) if mask is None else mask[:, None, None] != 0
        if config.causal:
            allowed = allowed & jnp.tri(length, dtype=bool)
        hidden = self.norm(run_layers(self.layers, hidden, allowed, config))
        return self.projection(self.pool(hidden, ids))

    def pool(
        self, hidden: Float[Array, "batch length dim"], ids: Int[Array, "batch length"]
    ) -> Float[Array, "batch dim"]:
        """The hidden state of the token that stands for each text."""
        if self.config.pooling == "last":
            return hidden[:, -1]
        at = ids if self.config.pooling == "highest" else ids == self.config.eos_id
        row = jnp.argmax(at, axis=1)[:, None, None]
        return jnp.take_along_axis(hidden, row, axis=1)[:, 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """What makes one pair of towers different from another.

    Args:
        model_type: "clip" or "siglip".
        vision: the image tower, whose pooled vector is as wide as the text's.
        text: the text tower.
        logit_bias: whether a learned number is added to every logit (SigLIP).
        dtype: name of the type of activations and of the operands of products, in both towers.
        scan: scan over the layers of both towers; otherwise unroll them.
        remat: what the backward pass keeps, a name in `REMAT_POLICIES`.

    Raises:
        ValueError: the vectors of the towers differ in width.
    """

    model_type: str = "clip"
    vision: VisionConfig
    text: TextConfig
    logit_bias: bool = False
    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"

    def __post_init__(self) -> None:
        share(self, "vision", "text")
        image = self.vision.projection_dim or self.vision.dim
        if image != self.text.projection_dim:
            raise ValueError(
                f"vectors of images are {image} wide, those of texts {self.text.projection_dim}"
            )

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""
        return self.text.vocab_size

    @property
    def max_length(self) -> int:
        """The longest text in tokens."""
        return self.text.positions

    @property
    def pad_id(self) -> int | None:
        """The id of the padding token."""
        return self.text.pad_id


class Clip(nnx.Module):
    """How well images and texts fit.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: ClipConfig, rngs: nnx.Rngs) -> None:
        self.vision = VisionTower(config.vision, rngs)
        self.text = TextTower(config.text, rngs)
        # As training began in the papers. SigLIP's files hold these numbers as arrays of one.
        scale = jnp.full(1, math.log(10)) if config.logit_bias else jnp.array(math.log(1 / 0.07))
        self.logit_scale = nnx.Param(scale.astype(config.dtype))
        if config.logit_bias:
            self.logit_bias = nnx.Param(jnp.full(1, -10.0, config.dtype))
        self.config = config

    def __call__(
        self,
        ids: Int[Array, "texts length"] | None = None,
        mask: Int[Array, "texts length"] | None = None,
        pixels: Float[Array, "images channels height width"] | None = None,
        *,
        outputs: str = "logits",
    ) -> Float[Array, "..."]:
        """Compares every image with every text, or makes the vectors of one kind.

        Args:
            ids: token ids.
            mask: 1 for real tokens, 0 for padding; None: all are real.
            pixels: the images.
            outputs: "logits" `[images, texts]`; "images" or "texts": their vectors of length 1,
                `[images or texts, width]`, for which the other kind need not be given.

        Returns:
            An array of float32.

        Raises:
            ValueError: an input that is needed is missing, or does not fit.
        """
        check_name("outputs", outputs, OUTPUTS)
        if outputs == "images":
            return self.embed_images(pixels)
        if outputs == "texts":
            return self.embed_texts(ids, mask)
        cosines = product(
            "iw,tw->it", self.embed_images(pixels), self.embed_texts(ids, mask), self.config.dtype
        )
        logits = cosines * jnp.exp(self.logit_scale[...].astype(cosines.dtype))
        return logits + self.logit_bias[...] if self.config.logit_bias else logits

    def embed_images(
        self, pixels: Float[Array, "images channels height width"] | None
    ) -> Float[Array, "images vector"]:
        """The vectors of images, of length 1."""
        if pixels is None:
            raise ValueError("pixels are missing; for the vectors of texts ask for outputs='texts'")
        return normalize(_at_least_float32(self.vision(pixels, outputs="pooled")))

    def embed_texts(
        self, ids: Int[Array, "texts length"] | None, mask: Int[Array, "texts length"] | None
    ) -> Float[Array, "texts vector"]:
        """The vectors of texts, of length 1."""
        if ids is None:
            raise ValueError("ids are missing; for the vectors of images ask for outputs='images'")
        return normalize(_at_least_float32(self.text(ids, mask)))


def _at_least_float32(x: Float[Array, "batch vector"]) -> Float[Array, "batch vector"]:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
