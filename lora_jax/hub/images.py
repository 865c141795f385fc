"""Pictures to the pixels that a model was trained on, all of one size."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8

Size = tuple[int, int] | int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageProcessor:
    """Makes pictures of one size.

    Args:
        resize: height and width to resample to, or the length of the shorter edge, which keeps
            their ratio; None: pictures keep their size.
        resample: the filter, a number of `PIL.Image.Resampling`.
        crop: height and width to cut from the middle, with black around what is smaller; None:
            nothing is cut.
        scale: what the pixels, from 0 to 255, are multiplied with.
        mean: subtracted from each channel after that.
        std: what each channel is divided by after that.
        convert: make pictures of other modes RGB, with white behind what is transparent; otherwise
            they are refused.
    """

    resize: Size | None
    resample: int
    crop: tuple[int, int] | None
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    convert: bool

    def __call__(self, images: Sequence[Any]) -> Float[np.ndarray, "images channels height width"]:
        """Prepares pictures.

        Args:
            images: `PIL.Image.Image`s of mode RGB.

        Returns:
            Their pixels in float32.

        Raises:
            ValueError: a picture has another mode, they come out in different sizes, or there is
                none.
        """
        if not images:
            raise ValueError("no images were given")
        made = [self.prepare(image) for image in images]
        sizes = sorted({one.shape[1:] for one in made})
        if len(sizes) > 1:
            raise ValueError(f"the images come out in different sizes: {sizes}; prepare one a time")
        return np.stack(made)

    def prepare(self, image: Any) -> Float[np.ndarray, "channels height width"]:
        """Prepares one picture."""
        image = to_rgb(image, convert=self.convert)
        if self.resize is not None:
            height, width = _target(self.resize, image)
            image = image.resize((width, height), PIL.Image.Resampling(self.resample))
        pixels = np.asarray(image)
        if self.crop is not None:
            pixels = _crop(pixels, self.crop)
        return normalize_pixels(pixels, self.scale, self.mean, self.std)


def to_rgb(image: Any, *, convert: bool) -> PIL.Image.Image:
    """Checks that a picture is RGB, or makes it so.

    Raises:
        ValueError: it is not, and is not to be converted; or it is not a picture of Pillow's.
    """
    if not isinstance(image, PIL.Image.Image):
        raise ValueError(f"an image is a {type(image).__name__}; give a PIL.Image.Image")
    if image.mode == "RGB" and not (convert and "transparency" in image.info):
        return image
    if not convert:
        raise ValueError(
            f"an image has the mode {image.mode!r}, but the model takes 'RGB': convert it with "
            'image.convert("RGB"), or set do_convert_rgb in preprocessor_config.json'
        )
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, (255, 255, 255, 255))
    return PIL.Image.alpha_composite(white, image).convert("RGB")


def normalize_pixels(
    pixels: UInt8[np.ndarray, "height width channels"],
    scale: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> Float[np.ndarray, "channels height width"]:
    """Scales pixels and normalises each channel, in float32."""
    scaled = (pixels.astype(np.float64) * scale).astype(np.float32)
    normal = (scaled - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def _target(size: Size, image: PIL.Image.Image) -> tuple[int, int]:
    """Height and width to resample to."""
    if isinstance(size, tuple):
        return size
    longer = int(size * max(image.size) / min(image.size))
    return (longer, size) if image.width <= image.height else (size, longer)


def _crop(
    pixels: UInt8[np.ndarray, "height width channels"], size: tuple[int, int]
) -> UInt8[np.ndarray, "new_height new_width channels"]:
    """Cuts the middle out; what a picture lacks is black, the odd row of it above or left."""
    cut = np.zeros((*size, pixels.shape[2]), np.uint8)
    source, target = [], []
    for old, new in zip(pixels.shape, size, strict=False):
        start, shared = (old - new) // 2, min(old, new)
        source.append(slice(max(start, 0), max(start, 0) + shared))
        target.append(slice(max(-start, 0), max(-start, 0) + shared))
    cut[tuple(target)] = pixels[tuple(source)]
    return cut
