"""Rotary position embeddings (Su et al., 2021) and the ways to stretch them."""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lora_jax.models.checks import check_name

SCALINGS = ("default", "linear", "llama3", "yarn")

Tables = tuple[Float[Array, "..."], Float[Array, "..."]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """How fast each pair of a head's entries turns with the position.

    Args:
        theta: the base: pair i of n turns by theta^(-i/n) radians a token.
        scaling: "default" (none), "linear" (Chen et al., 2023), "llama3" (Llama 3.1) or "yarn"
            (Peng et al., 2023).
        factor: how many times longer the context is made.
        original_length: context in tokens before it was made longer, for "llama3" and "yarn".
        low: "llama3": waves longer than `original_length / low` are stretched in full.
        high: "llama3": waves shorter than `original_length / high` are left alone.
        beta_fast: "yarn": pairs that turn more often than this in `original_length` are left alone.
        beta_slow: "yarn": pairs that turn less often than this are stretched in full.
        magnitude: "yarn": what cosines and sines are multiplied with; None is 0.1 ln(factor) + 1.
        truncate: "yarn": round the limits of the ramp to whole pairs.

    Raises:
        ValueError: the scaling is unknown.
    """

    theta: float = 10000.0
    scaling: str = "default"
    factor: float = 1.0
    original_length: int = 0
    low: float = 1.0
    high: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    magnitude: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        check_name("scaling", self.scaling, SCALINGS)

    def frequencies(self, dim: int) -> Float[np.ndarray, " half"]:
        """Radians a token of each pair of a head of width `dim`, in float32."""
        pairs = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
        plain = (1.0 / np.float32(self.theta) ** pairs).astype(np.float32)
        stretched = plain / np.float32(self.factor)
        if self.scaling == "linear":
            return stretched
        if self.scaling == "llama3":
            keep = self._kept_by_wavelength(plain)
        elif self.scaling == "yarn":
            keep = self._kept_by_ramp(dim)
        else:
            return plain
        return (keep * plain + (1 - keep) * stretched).astype(np.float32)

    @property
    def scale(self) -> float:
        """What cosines and sines are multiplied with."""
        if self.scaling != "yarn" or self.factor <= 1:
            return 1.0 if self.magnitude is None else self.magnitude
        return 0.1 * math.log(self.factor) + 1 if self.magnitude is None else self.magnitude

    def _kept_by_wavelength(self, plain: np.ndarray) -> np.ndarray:
        turns = self.original_length * plain / (2 * math.pi)
        return np.clip((turns - self.low) / (self.high - self.low), 0, 1)

    def _kept_by_ramp(self, dim: int) -> np.ndarray:
        def pair_that_turns(times: float) -> float:
            wavelength = self.original_length / (times * 2 * math.pi)
            return dim * math.log(wavelength) / (2 * math.log(self.theta))

        first, last = pair_that_turns(self.beta_fast), pair_that_turns(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, dim - 1)
        # The smallest slope stands in for a ramp without length.
        ramp = (np.arange(dim // 2, dtype=np.float32) - first) / (last - first or 0.001)
        return 1 - np.clip(ramp, 0, 1)


def tables(
    rope: Rope,
    positions: Int[Array, "*kinds batch length"],
    dim: int,
    sections: Sequence[int] = (),
    most: int | None = None,
) -> Tables:
    """Cosines and sines of the angle of each token and pair.

    Args:
        rope: the frequencies.
        positions: of each token; with `sections` three of each: time, row and column of an image.
        dim: width of a head.
        sections: how many pairs turn with time, with the row and with the column (Qwen2-VL,
            Wang et al., 2024, section 2.1).
        most: number that all positions are below, where it is known and small. Angles are then
            looked up: a CPU would compute them anew for each head and layer that uses them.

    Returns:
        Two arrays `[batch, length, dim / 2]` in float32.
    """
    if most is not None:
        every = tables(rope, jnp.arange(most)[None], dim)
        cos, sin = (jnp.take(table[0], positions, axis=0) for table in every)
        return cos, sin
    angles = positions[..., None].astype(jnp.float32) * rope.frequencies(dim)
    if positions.ndim == 3:
        starts = np.cumsum(sections)[:-1].tolist()
        parts = jnp.split(angles, starts, axis=-1)
        angles = jnp.concatenate([part[kind] for kind, part in enumerate(parts)], axis=-1)
    return jnp.cos(angles) * rope.scale, jnp.sin(angles) * rope.scale


def rotate(x: Float[Array, "batch length heads dim"], turn: Tables) -> Float[Array, "..."]:
    """Turns the pairs of each head, entry i with entry i + dim/2, in at least float32."""
    cos, sin = (table[:, :, None].astype(jnp.promote_types(x.dtype, jnp.float32)) for table in turn)
    a, b = jnp.split(x.astype(cos.dtype), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
