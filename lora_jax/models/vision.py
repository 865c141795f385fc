"""Images to hidden states: ViT, and the image towers of CLIP and SigLIP.

Dosovitskiy et al., 2020; Radford et al., 2021; Zhai et al., 2023.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lora_jax.models.activations import ACTIVATIONS
from lora_jax.models.attention_pool import AttentionPool
from lora_jax.models.checks import check_name
from lora_jax.models.layers import Embedding, LayerNorm, Linear
from lora_jax.models.stack import run_stack, stack_layers
from lora_jax.models.task_heads import TokenHead
from lora_jax.models.tower import Layer, TowerConfig, everywhere_in, run_layers

POOLINGS = ("class", "dense", "attention")
OUTPUTS = ("hidden", "pooled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig(TowerConfig):
    """What makes one image tower different from another.

    Args:
        model_type: "vit", "clip_vision_model" or "siglip_vision_model".
        image_size: height and width of an image in pixels.
        patch_size: height and width of a patch in pixels; what no whole patch covers, at the right
            and at the bottom, is not read.
        channels: channels of an image.
        class_token: put a learned token before the patches.
        patch_bias: whether the map from patches to hidden states has a bias.
        input_norm: normalise what goes into the first layer (CLIP).
        output_norm: normalise every hidden state of the last layer; otherwise only the pooled one.
        pooling: how one vector is made of an image: "class", the class token; "dense", the class
            token through a dense layer (ViT); "attention", a learned query that looks at all
            patches (SigLIP).
        pooler: keep the pooler's parameters; "class" has none.
        pooler_dim: width of the vector that "dense" makes.
        pooler_activation: of "dense", a name in `ACTIVATIONS`.
        projection_dim: width that a last matrix without bias maps the pooled vector to; None: there
            is no such matrix.
        head: "classification" of the class token, or None.
        classes: number of classes.

    Raises:
        ValueError: fields contradict one another, or a name is unknown.
    """

    model_type: str = "vit"
    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    channels: int = 3
    class_token: bool = True
    patch_bias: bool = True
    input_norm: bool = False
    output_norm: bool = True
    pooling: str = "dense"
    pooler: bool = False
    pooler_dim: int = 768
    pooler_activation: str = "tanh"
    projection_dim: int | None = None
    head: str | None = None
    classes: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("pooling", self.pooling, POOLINGS)
        check_name("pooler_activation", self.pooler_activation, ACTIVATIONS)
        if not self.patches:
            raise ValueError(f"image_size {self.image_size} is less than a patch {self.patch_size}")
        if self.head is not None:
            check_name("head", self.head, ("classification",))
        if not self.class_token and (self.head or self.pooling != "attention"):
            raise ValueError(
                f"pooling {self.pooling!r} and heads need a class token, which this model lacks"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """How many patches an image is high and wide."""
        (height, width), (rows, columns) = self.image_size, self.patch_size
        return height // rows, width // columns

    @property
    def patches(self) -> int:
        """The number of patches of an image."""
        return self.grid[0] * self.grid[1]


class VisionTower(nnx.Module):
    """Images to hidden states, to one vector each, or to the logits of classes.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs) -> None:
        linear = functools.partial(Linear, dtype=config.dtype, rngs=rngs)
        norm = functools.partial(LayerNorm, config.dim, eps=config.eps, dtype=config.dtype)
        rows, columns = config.patch_size
        # Patches do not overlap: their convolution is a product.
        self.patches = linear(config.channels * rows * columns, config.dim, bias=config.patch_bias)
        tokens = config.patches + config.class_token
        self.positions = Embedding(tokens, config.dim, dtype=config.dtype, rngs=rngs)
        if config.class_token:
            self.class_token = nnx.Param(jnp.zeros(config.dim, config.dtype))
        if config.input_norm:
            self.input_norm = norm()
        self.layers = stack_layers(functools.partial(Layer, config), config.layers, rngs)
        self.norm = norm()
        if config.pooler and config.pooling == "dense":
            self.pooler: nnx.Module = linear(config.dim, config.pooler_dim)
        if config.pooler and config.pooling == "attention":
            self.pooler = AttentionPool(config, rngs)
        if config.projection_dim is not None:
            width = config.pooler_dim if config.pooling == "dense" else config.dim
            self.projection = linear(width, config.projection_dim, bias=False)
        if config.head is not None:
            self.head = TokenHead(config.dim, config.classes, dtype=config.dtype, rngs=rngs)
        self.config = config

    def __call__(
        self,
        pixels: Float[Array, "batch channels height width"],
        *,
        outputs: str | None = None,
    ) -> Float[Array, "..."]:
        """Reads a batch of images.

        Args:
            pixels: normalised as the model was trained with; see `hub.ImageProcessor`.
            outputs: "hidden": the states of the last layer `[batch, tokens, dim]`, the class token
                first if there is one; "pooled": one vector each `[batch, width]`; None: the logits
                `[batch, classes]` of the head, or without a head the hidden states.

        Raises:
            ValueError: the images have another size, or what is asked for was not kept.
        """
        config = self.config
        if outputs is not None:
            check_name("outputs", outputs, OUTPUTS)
        if outputs == "pooled" and config.pooling != "class" and not config.pooler:
            raise ValueError("outputs 'pooled' needs the pooler: load the model with pooler=True")
        hidden = self.embed(pixels)
        hidden = run_layers(self.layers, hidden, everywhere_in(hidden), config)
        if config.output_norm:
            hidden = self.norm(hidden)
        if outputs is None and config.head is not None:
            logits: Array = self.head(hidden[:, :1])[:, 0]
            return logits
        return self.pool(hidden) if outputs == "pooled" else hidden

    def states(
        self, pixels: Float[Array, "batch channels height width"], depths: Sequence[int]
    ) -> list[Float[Array, "batch tokens dim"]]:
        """The hidden states after so many layers each.

        Args:
            pixels: the images.
            depths: numbers of layers, from 0 to all.
        """
        hidden, wanted = self.embed(pixels), jnp.array(depths)[:, None, None, None]
        everywhere = everywhere_in(hidden)

        # The last layers are run even if nothing asks for them: a scan over the others would begin
        # with a copy of their weights.
        def call(layer: Layer, carry: tuple[Array, Array], number: Array) -> tuple[Array, Array]:
            hidden = layer(carry[0], everywhere)
            return hidden, jnp.where(wanted == number, hidden, carry[1])

        _, kept = run_stack(
            self.layers,
            call,
            (hidden, jnp.where(wanted == 0, hidden, jnp.zeros_like(hidden))),
            scan=self.config.scan,
            remat=self.config.remat,
            each=jnp.arange(1, self.config.layers + 1),
        )
        return list(kept)

    def embed(
        self, pixels: Float[Array, "batch channels height width"]
    ) -> Float[Array, "batch tokens dim"]:
        """Cuts images into patches and gives each its position."""
        config = self.config
        _check_images(pixels.shape, config)
        batch, (down, across), (rows, columns) = len(pixels), config.grid, config.patch_size
        whole = pixels[:, :, : down * rows, : across * columns]
        cut = whole.reshape(batch, config.channels, down, rows, across, columns)
        cut = cut.transpose(0, 2, 4, 1, 3, 5)
        hidden = self.patches(cut.reshape(batch, config.patches, -1))
        if config.class_token:
            first = jnp.broadcast_to(self.class_token[...], (batch, 1, config.dim))
            hidden = jnp.concatenate([first.astype(hidden.dtype), hidden], axis=1)
        hidden = hidden + self.positions.embedding[...].astype(hidden.dtype)
        return self.input_norm(hidden) if config.input_norm else hidden

    def pool(self, hidden: Float[Array, "batch tokens dim"]) -> Float[Array, "batch vector"]:
        """Makes one vector of each image."""
        config = self.config
        if config.pooling == "attention":
            pooled = self.pooler(hidden)
        elif config.pooling == "dense":
            pooled = ACTIVATIONS[config.pooler_activation](self.pooler(hidden[:, 0]))
        else:
            pooled = hidden[:, 0] if config.output_norm else self.norm(hidden[:, 0])
        return pooled if config.projection_dim is None else self.projection(pooled)


def _check_images(shape: tuple[int, ...], config: VisionConfig) -> None:
    wanted = (config.channels, *config.image_size)
    if shape[1:] != wanted:
        raise ValueError(
            f"images have the shape {shape[1:]} (channels, height, width), but the model takes "
            f"{wanted}; prepare them with the model's image processor"
        )
