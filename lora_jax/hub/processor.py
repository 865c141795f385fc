"""Texts with images in them to the inputs of a model."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from lora_jax.hub.images import ImageProcessor
from lora_jax.hub.patches import PatchProcessor
from lora_jax.hub.tokenizer import SIDES, Tokenizer
from lora_jax.models.checks import check_name
from lora_jax.models.llava import LlavaConfig
from lora_jax.models.qwen2_5_vl import QwenVLConfig
from lora_jax.models.qwen2_5_vl_plan import plan_positions, plan_vision


class Prompt(NamedTuple):
    """Texts with images, as `apply(params, prompt.ids, prompt.mask, **prompt.inputs)` takes them.

    Attributes:
        ids: token ids `[batch, length]` in int32.
        mask: 1 for real tokens, 0 for padding.
        inputs: the images: `pixels`, and of Qwen2.5-VL `plan` and `positions`. Empty without
            images.
    """

    ids: Int[np.ndarray, "batch length"]
    mask: Int[np.ndarray, "batch length"]
    inputs: dict[str, Any]


class Processor:
    """Prepares the texts and the pictures of a model that reads both.

    Args:
        tokenizer: of the model.
        images: prepares its pictures.
        config: of the model.

    Raises:
        ValueError: the model reads no pictures in texts, or not as `images` makes them.
    """

    def __init__(
        self, tokenizer: Tokenizer, images: ImageProcessor | PatchProcessor, config: Any
    ) -> None:
        if not isinstance(config, LlavaConfig | QwenVLConfig):
            raise ValueError(f"a model of type {config.model_type!r} reads no images in its texts")
        if isinstance(config, QwenVLConfig) != isinstance(images, PatchProcessor):
            raise ValueError(f"a {type(images).__name__} does not serve a {config.model_type!r}")
        if isinstance(config, QwenVLConfig) and isinstance(images, PatchProcessor):
            _check_patches(images, config)
        self.tokenizer = tokenizer
        self.images = images
        self.config = config

    def __call__(
        self,
        texts: Sequence[str],
        images: Sequence[Any] = (),
        *,
        length: int | None = None,
        side: str = "right",
        special: bool = True,
    ) -> Prompt:
        """Prepares texts, each with the model's image token where a picture stands.

        Args:
            texts: the texts, with `<image>` (LLaVA) or `<|image_pad|>` (Qwen) once for a picture.
            images: all pictures, `PIL.Image.Image`s, in the order of the texts.
            length: length of the result in tokens, those of images included; None takes that of
                the longest text.
            side: "right" pads at the end, "left" at the beginning, as generation likes it.
            special: add the special tokens of the model; False for the text of a chat template.

        Returns:
            The inputs of the model.

        Raises:
            ValueError: there are more or fewer pictures than places for them, a picture has
                another mode, or a text is too long.
        """
        check_name("side", side, SIDES)
        rows = [self.tokenizer.encode([text], special=special).ids[0] for text in texts]
        self._check_places(rows, images)
        self._check_videos(rows)
        pixels, grid = self._prepare(images)
        ids, mask = self._pad(self._widen(rows, len(images), grid), length, side)
        return Prompt(ids, mask, self._inputs(ids, mask, pixels, grid))

    def widen(
        self, ids: Int[np.ndarray, " length"], images: Sequence[Any]
    ) -> tuple[Int[np.ndarray, " longer"], dict[str, np.ndarray]]:
        """Makes room for pictures in one text that is tokens already.

        Args:
            ids: the text, with the image token once for a picture.
            images: its pictures.

        Returns:
            The ids, with the token of each picture as often as the model has features of it; and
            the pictures, as `pixels`, and of Qwen2.5-VL their `grid`.

        Raises:
            ValueError: as when called.
        """
        self._check_videos([ids])
        self._check_places([ids], images)
        pixels, grid = self._prepare(images)
        found = {"pixels": pixels, "grid": grid}
        widened = self._widen([ids], len(images), grid)[0]
        return widened, {name: value for name, value in found.items() if value is not None}

    def _check_places(self, rows: Sequence[np.ndarray], images: Sequence[Any]) -> None:
        places = sum(int((row == self.config.image_id).sum()) for row in rows)
        if places != len(images):
            raise ValueError(
                f"the texts have {places} image tokens, but {len(images)} images were given; a "
                "text has one such token for each of its images"
            )

    def _check_videos(self, rows: Sequence[np.ndarray]) -> None:
        video = getattr(self.config, "video_id", None)
        if any((row == video).any() for row in rows):
            raise ValueError("a text has a token for a video; only images are supported")

    def _prepare(self, images: Sequence[Any]) -> tuple[Any, np.ndarray | None]:
        if not images:
            return None, None
        made = self.images(images)
        return (made, None) if isinstance(made, np.ndarray) else (made.pixels, made.grid)

    def _widen(
        self, rows: Sequence[np.ndarray], images: int, grid: np.ndarray | None
    ) -> list[np.ndarray]:
        """Repeats the token of each image as often as the model has features of it."""
        if isinstance(self.config, LlavaConfig):
            counts = np.full(images, self.config.image_tokens)
        else:
            sizes = np.ones((0, 3), int) if grid is None else grid
            counts = sizes[:, 1] * sizes[:, 2] // self.config.vision.merge**2
        widened, used = [], 0
        for row in rows:
            marked = row == self.config.image_id
            times = np.ones(len(row), int)
            times[marked] = counts[used : used + marked.sum()]
            used += marked.sum()
            widened.append(np.repeat(row, times))
        return widened

    def _pad(
        self, rows: Sequence[np.ndarray], length: int | None, side: str
    ) -> tuple[np.ndarray, np.ndarray]:
        longest = max((len(row) for row in rows), default=0)
        limit = self.config.max_length if length is None else min(length, self.config.max_length)
        if longest > limit:
            raise ValueError(
                f"a text has {longest} tokens with its images, but there is room for {limit}; make "
                "the text shorter, or the images smaller or fewer"
            )
        length = longest if length is None else length
        pad = self.tokenizer.pad_id
        if pad is None and any(len(row) < length for row in rows):
            raise ValueError(
                "the texts differ in length, and the model has no padding token; encode one a time"
            )
        ids = np.full((len(rows), length), pad or 0, np.int32)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            at = slice(length - len(row), length) if side == "left" else slice(len(row))
            ids[i, at], mask[i, at] = row, 1
        return ids, mask

    def _inputs(
        self, ids: np.ndarray, mask: np.ndarray, pixels: Any, grid: np.ndarray | None
    ) -> dict[str, Any]:
        if pixels is None:
            return {}
        if grid is None:
            return {"pixels": pixels}
        config = self.config
        return {
            "pixels": pixels,
            "plan": plan_vision(grid, merge=config.vision.merge, window=config.vision.window),
            "positions": plan_positions(
                ids, mask, grid, image_id=config.image_id, merge=config.vision.merge
            ),
        }


def _check_patches(images: PatchProcessor, config: QwenVLConfig) -> None:
    vision = config.vision
    made = {"patch": images.patch, "merge": images.merge, "frames": images.frames}
    wanted = {"patch": vision.patch, "merge": vision.merge, "frames": vision.frames}
    if made != wanted:
        raise ValueError(
            f"preprocessor_config.json makes patches of {made}, but config.json takes {wanted}"
        )
