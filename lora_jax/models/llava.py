"""LLaVA-1.5: an image tower, a projector and a decoder (Liu et al., 2023)."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lora_jax.models.activations import ACTIVATIONS
from lora_jax.models.cache import Cache
from lora_jax.models.checks import check_name
from lora_jax.models.decoder import Decoder, DecoderConfig
from lora_jax.models.layers import Linear
from lora_jax.models.multimodal import SpeaksThroughDecoder, place_features
from lora_jax.models.outputs import Outputs
from lora_jax.models.parts import share
from lora_jax.models.vision import VisionConfig, VisionTower


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlavaConfig(SpeaksThroughDecoder):
    """What makes one LLaVA different from another.

    Args:
        vision: the image tower.
        language: the decoder.
        image_id: id of the token that stands for one feature of an image.
        depths: after how many layers of the tower hidden states are taken; several are joined.
        select: "default" leaves the first hidden state of an image out, its class token; "full"
            takes all.
        activation: between the two layers of the projector, a name in `ACTIVATIONS`.
        projector_bias: whether the projector has biases.
        dtype: name of the type of activations and of the operands of products, in all parts.
        scan: scan over the layers of both; otherwise unroll them.
        remat: what the backward pass keeps, a name in `REMAT_POLICIES`.

    Raises:
        ValueError: a depth beyond the tower, or an unknown name.
    """

    model_type: str = "llava"
    vision: VisionConfig
    language: DecoderConfig
    image_id: int = 32000
    depths: tuple[int, ...] = (23,)
    select: str = "default"
    activation: str = "gelu"
    projector_bias: bool = True
    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"

    def __post_init__(self) -> None:
        share(self, "vision", "language")
        check_name("activation", self.activation, ACTIVATIONS)
        check_name("select", self.select, ("default", "full"))
        if not self.depths or not all(0 <= depth <= self.vision.layers for depth in self.depths):
            raise ValueError(
                f"depths {self.depths} are not in the image tower, which has {self.vision.layers} "
                "layers"
            )

    @property
    def image_tokens(self) -> int:
        """How many tokens stand for one image."""
        tokens = self.vision.patches + self.vision.class_token
        return tokens - (self.select == "default")


class Projector(nnx.Module):
    """Features of images to embeddings of the decoder.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: LlavaConfig, rngs: nnx.Rngs) -> None:
        linear = functools.partial(
            Linear, dtype=config.dtype, rngs=rngs, bias=config.projector_bias
        )
        self.fc1 = linear(config.vision.dim * len(config.depths), config.language.dim)
        self.fc2 = linear(config.language.dim, config.language.dim)
        self.config = config

    def __call__(
        self, features: Float[Array, "images tokens width"]
    ) -> Float[Array, "images tokens dim"]:
        """Maps every feature."""
        return self.fc2(ACTIVATIONS[self.config.activation](self.fc1(features)))


class Llava(nnx.Module):
    """Token ids and images to logits of the next token.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: LlavaConfig, rngs: nnx.Rngs) -> None:
        self.vision = VisionTower(config.vision, rngs)
        self.projector = Projector(config, rngs)
        self.language = Decoder(config.language, rngs)
        self.config = config

    def __call__(
        self,
        ids: Int[Array, "batch length"],
        mask: Int[Array, "batch length"] | None = None,
        *,
        segments: Int[Array, "batch length"] | None = None,
        pixels: Float[Array, "images channels height width"] | None = None,
        cache: Cache | None = None,
        outputs: Outputs = "logits",
    ) -> Any:
        """Reads a batch of texts with images in them, or their continuation.

        Args:
            ids: token ids; `image_id` once for each of an image's `image_tokens`.
            mask: 1 for real tokens, 0 for padding, on either side; None: all are real.
            segments: documents packed into a row, as in `Decoder`; None: a row is one document.
            pixels: all images of the batch, in the order of their tokens; None: there are none.
            cache: what came before these tokens; None: nothing did, and nothing is kept.
            outputs: "logits", "last", "hidden" or a function, as `outputs.finish` describes them.

        Returns:
            Logits in float32, or hidden states; with a cache also the cache, these tokens added.
            NaN where the tokens are not as many as the images need: `hub.Processor` checks it.

        Raises:
            ValueError: the images have another size, or the text is longer than the context.
        """
        embeds = self.language.embed_tokens(ids)
        if pixels is not None:
            features = self.embed_images(pixels)
            features = features.reshape(-1, features.shape[-1])
            embeds = place_features(embeds, ids == self.config.image_id, features)
        return self.language(
            ids, mask, segments=segments, cache=cache, embeds=embeds, outputs=outputs
        )

    def embed_images(
        self, pixels: Float[Array, "images channels height width"]
    ) -> Float[Array, "images tokens dim"]:
        """The embeddings that stand for images."""
        states = self.vision.states(pixels, self.config.depths)
        if self.config.select == "default":
            states = [state[:, 1:] for state in states]
        return self.projector(jnp.concatenate(states, axis=-1))
