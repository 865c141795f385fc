"""Qwen2.5-VL: images of any size in the text of a decoder (Bai et al., 2025)."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lora_jax.models.cache import Cache, empty_cache, place
from lora_jax.models.decoder import Decoder, DecoderConfig
from lora_jax.models.multimodal import SpeaksThroughDecoder, place_features
from lora_jax.models.outputs import Outputs
from lora_jax.models.parts import share
from lora_jax.models.qwen2_5_vl_plan import VisionPlan
from lora_jax.models.qwen2_5_vl_vision import Merger, QwenVisionConfig, QwenVisionTower


@dataclasses.dataclass(frozen=True, kw_only=True)
class QwenVLConfig(SpeaksThroughDecoder):
    """What makes one Qwen2.5-VL different from another.

    Args:
        vision: the image tower.
        language: the decoder, whose positions are of time, row and column.
        image_id: id of the token that stands for a square of an image.
        video_id: id of the token that would stand for a part of a video.
        dtype: name of the type of activations and of the operands of products, in all parts.
        scan: scan over the layers of both; otherwise unroll them.
        remat: what the backward pass keeps, a name in `REMAT_POLICIES`.

    Raises:
        ValueError: the tower's vectors are not as wide as the decoder's.
    """

    model_type: str = "qwen2_5_vl"
    vision: QwenVisionConfig
    language: DecoderConfig
    image_id: int = 151655
    video_id: int = 151656
    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"

    def __post_init__(self) -> None:
        share(self, "vision", "language")
        if self.vision.out_dim != self.language.dim:
            raise ValueError(
                f"vectors of images are {self.vision.out_dim} wide, those of tokens "
                f"{self.language.dim}"
            )


class ShiftedCache(NamedTuple):
    """Keys and values, and how the positions of a text with images differ from its places.

    Attributes:
        own: the decoder's keys and values.
        shift: `[batch]`: what is added to the place of a further token to get its position.
    """

    own: Cache
    shift: Int[Array, " batch"]

    @property
    def order(self) -> Int[Array, "batch slots"]:
        """The place of each slot's token in its text; -1 for none."""
        return self.own.order

    @property
    def used(self) -> Int[Array, ""]:
        """Number of slots in use."""
        return self.own.used

    @property
    def lengths(self) -> Int[Array, " batch"]:
        """The number of real tokens of each row."""
        return self.own.lengths

    def select(self, rows: Int[Array, " new_batch"]) -> "ShiftedCache":
        """The cache with these rows of the batch, as beam search and repetition need it."""
        return ShiftedCache(self.own.select(rows), jnp.take(self.shift, rows))


def empty_shifted_cache(
    layers: int, batch: int, slots: int, kv_heads: int, head_dim: int, dtype: str
) -> ShiftedCache:
    """Makes a cache in which no slot is used."""
    own = empty_cache(layers, batch, slots, kv_heads, head_dim, dtype)
    return ShiftedCache(own, jnp.zeros(batch, jnp.int32))


class QwenVL(nnx.Module):
    """Token ids and images to logits of the next token.

    Args:
        config: the sizes.
        rngs: source of the initial weights.
    """

    def __init__(self, config: QwenVLConfig, rngs: nnx.Rngs) -> None:
        self.vision = QwenVisionTower(config.vision, rngs)
        self.projector = Merger(config.vision, rngs)
        self.language = Decoder(config.language, rngs)
        self.config = config

    def __call__(
        self,
        ids: Int[Array, "batch length"],
        mask: Int[Array, "batch length"] | None = None,
        *,
        segments: Int[Array, "batch length"] | None = None,
        pixels: Float[Array, "patches numbers"] | None = None,
        plan: VisionPlan | None = None,
        positions: Int[Array, "3 batch length"] | None = None,
        cache: ShiftedCache | None = None,
        outputs: Outputs = "logits",
    ) -> Any:
        """Reads a batch of texts with images in them, or their continuation.

        Args:
            ids: token ids; `image_id` once for each square of an image.
            mask: 1 for real tokens, 0 for padding, on either side; None: all are real.
            segments: documents packed into a row, as in `Decoder`; None: a row is one document.
            pixels: the patches of all images, in the order of their tokens; None: there are none.
            plan: of these images; `plan_vision` makes it from their sizes.
            positions: `plan_positions` makes them from ids and sizes; None: as in a text without
                images, or after one with images whose cache is given.
            cache: what came before these tokens; None: nothing did, and nothing is kept.
            outputs: "logits", "last", "hidden" or a function, as `outputs.finish` describes them.

        Returns:
            Logits in float32, or hidden states; with a cache also the cache, these tokens added.
            NaN where the tokens are not as many as the images need: `plan_positions` checks it.

        Raises:
            ValueError: something of pixels, plan and positions is missing, or does not fit.
        """
        embeds = self.language.embed_tokens(ids)
        if pixels is not None:
            if plan is None or positions is None:
                raise ValueError("pixels need a plan and positions; hub.Processor makes all three")
            features = self.projector(self.vision(pixels, plan))
            embeds = place_features(embeds, ids == self.config.image_id, features)
        if cache is None:
            return self.language(
                ids, mask, segments=segments, embeds=embeds, positions=positions, outputs=outputs
            )
        if segments is not None:
            raise ValueError("a cache continues one text a row: it cannot go with segments")
        if positions is None:
            order = place(jnp.ones_like(ids) if mask is None else mask, cache.lengths)
            positions = jnp.maximum(order, 0) + cache.shift[:, None]
        output, own = self.language(
            ids, mask, cache=cache.own, embeds=embeds, positions=positions, outputs=outputs
        )
        if positions.ndim == 3:
            shift = positions.max(axis=(0, 2)) + 1 - own.lengths
            return output, ShiftedCache(own, shift)
        return output, ShiftedCache(own, cache.shift)
