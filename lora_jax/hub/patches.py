"""Pictures of any size to patches, as Qwen2-VL and Qwen2.5-VL read them."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from jaxtyping import Float, Int

from lora_jax.hub.images import normalize_pixels, to_rgb

_MAX_RATIO = 200


class Patches(NamedTuple):
    """The patches of several pictures, one picture after another.

    Attributes:
        pixels: `[patches, numbers]` in float32: of each patch its channels, frames, rows, columns.
        grid: `[images, 3]`: how many patches a picture is long in time, high and wide.
    """

    pixels: Float[np.ndarray, "patches numbers"]
    grid: Int[np.ndarray, "images 3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchProcessor:
    """Cuts pictures of any size into patches.

    Args:
        min_pixels: smaller pictures are made larger.
        max_pixels: larger pictures are made smaller.
        patch: pixels that a patch is high and wide.
        merge: patches that lie in one square of `merge` × `merge` become one token, and follow one
            another.
        frames: frames that a patch is long; a picture is repeated so many times.
        resample: the filter, a number of `PIL.Image.Resampling`.
        scale: what the pixels, from 0 to 255, are multiplied with.
        mean: subtracted from each channel after that.
        std: what each channel is divided by after that.
        convert: make pictures of other modes RGB; otherwise they are refused.
    """

    min_pixels: int
    max_pixels: int
    patch: int
    merge: int
    frames: int
    resample: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    convert: bool

    def __call__(self, images: Sequence[Any]) -> Patches:
        """Prepares pictures.

        Args:
            images: `PIL.Image.Image`s of mode RGB.

        Returns:
            Their patches.

        Raises:
            ValueError: a picture has another mode or is extremely long, or there is none.
        """
        if not images:
            raise ValueError("no images were given")
        made = [self.prepare(image) for image in images]
        return Patches(*(np.concatenate(parts) for parts in zip(*made, strict=True)))

    def prepare(self, image: Any) -> Patches:
        """Prepares one picture."""
        image = to_rgb(image, convert=self.convert)
        height, width = fit(
            image.height,
            image.width,
            self.patch * self.merge,
            self.min_pixels,
            self.max_pixels,
        )
        image = image.resize((width, height), PIL.Image.Resampling(self.resample))
        pixels = normalize_pixels(np.asarray(image), self.scale, self.mean, self.std)
        return self.cut(pixels)

    def cut(self, pixels: Float[np.ndarray, "channels height width"]) -> Patches:
        """Cuts prepared pixels into patches, those of one merged square after another."""
        channels, height, width = pixels.shape
        rows, columns = height // self.patch, width // self.patch
        squares = pixels.reshape(
            channels,
            rows // self.merge,
            self.merge,
            self.patch,
            columns // self.merge,
            self.merge,
            self.patch,
        ).transpose(1, 4, 2, 5, 0, 3, 6)
        patches = squares.reshape(rows * columns, channels, 1, self.patch, self.patch)
        repeated = np.repeat(patches, self.frames, axis=2)
        grid = np.array([[1, rows, columns]], np.int32)
        return Patches(repeated.reshape(rows * columns, -1), grid)


def fit(height: int, width: int, unit: int, least: int, most: int) -> tuple[int, int]:
    """Finds the size nearest to a picture's whose sides are multiples of `unit`.

    Args:
        height: of the picture in pixels.
        width: of the picture in pixels.
        unit: what both sides are to be a multiple of.
        least: smallest number of pixels.
        most: largest number of pixels.

    Returns:
        Height and width with a number of pixels from `least` to `most`.

    Raises:
        ValueError: one side is more than 200 times the other.

    >>> fit(100, 301, 28, 56 * 56, 1280 * 28 * 28)
    (112, 308)
    """
    if max(height, width) > _MAX_RATIO * min(height, width):
        raise ValueError(
            f"an image is {height} high and {width} wide; one side may be at most {_MAX_RATIO} "
            "times the other"
        )
    near = round(height / unit) * unit, round(width / unit) * unit
    if near[0] * near[1] > most:
        shrink = math.sqrt(height * width / most)
        high, wide = (max(unit, math.floor(s / shrink / unit) * unit) for s in (height, width))
        return high, wide
    if near[0] * near[1] < least:
        grow = math.sqrt(least / (height * width))
        high, wide = (math.ceil(side * grow / unit) * unit for side in (height, width))
        return high, wide
    return near
