"""What decoders that see images have in common."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lora_jax.models.decoder import DecoderConfig


class SpeaksThroughDecoder:
    """What generation asks of the config of a model whose `language` is a decoder."""

    language: DecoderConfig

    @property
    def layers(self) -> int:
        """Layers that have a cache."""
        return self.language.layers

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.language.kv_heads

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.language.head_dim

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self.language.vocab_size

    @property
    def max_length(self) -> int:
        """The longest text in tokens, those of images included."""
        return self.language.max_length

    @property
    def pad_id(self) -> int | None:
        """Id of the padding token."""
        return self.language.pad_id

    @property
    def bos_id(self) -> int | None:
        """Id of the token that begins a text."""
        return self.language.bos_id

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids of tokens that end a text."""
        return self.language.eos_ids


def place_features(
    embeds: Float[Array, "batch length dim"],
    marked: Bool[Array, "batch length"],
    features: Float[Array, "features dim"],
) -> Float[Array, "batch length dim"]:
    """Puts the features of images where the text has tokens for them.

    Args:
        embeds: the embedded tokens.
        marked: True at a token that stands for a feature.
        features: of all images of the batch, in the order of their tokens.

    Returns:
        The embeddings with the features in them. A compiled program cannot raise: where there are
        more or fewer tokens than features, all marked places are NaN.
    """
    number = jnp.cumsum(marked.reshape(-1)) - 1
    fits = marked.sum() == len(features)
    placed = jnp.take(features, number, axis=0, mode="clip").reshape(embeds.shape)
    placed = jnp.where(fits, placed.astype(embeds.dtype), jnp.nan)
    return jnp.where(marked[..., None], placed, embeds)
