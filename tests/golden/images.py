"""Image processors of transformers that need no torchvision, and what they make of pictures."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageCase:
    """One processor.

    Args:
        make: name of its class in transformers.
        fields: its settings.
        modes: Pillow's mode of each picture it is given.
    """

    make: str
    fields: dict[str, Any]
    modes: tuple[str, ...] = ("RGB", "RGB")


SIZES = {"height": 12, "width": 20}
PATCHES = {"patch_size": 4, "merge_size": 2, "image_mean": MEAN, "image_std": STD}

CASES = {
    "clip_images": ImageCase(
        make="CLIPImageProcessorPil",
        fields={
            "size": {"shortest_edge": 18},
            "crop_size": {"height": 15, "width": 16},
            "image_mean": MEAN,
        },
        modes=("RGB", "RGBA", "L", "P"),
    ),
    "clip_images_smaller_than_the_crop": ImageCase(
        make="CLIPImageProcessorPil",
        fields={"size": {"shortest_edge": 9}, "crop_size": {"height": 18, "width": 11}},
    ),
    "vit_images": ImageCase(make="ViTImageProcessorPil", fields={"size": SIZES, "image_std": STD}),
    "siglip_images": ImageCase(
        make="SiglipImageProcessorPil",
        fields={"size": SIZES, "do_normalize": False, "rescale_factor": 0.5},
    ),
    "qwen_images": ImageCase(
        make="Qwen2VLImageProcessorPil",
        fields=PATCHES | {"size": {"shortest_edge": 64, "longest_edge": 600}},
    ),
    "qwen_images_made_larger": ImageCase(
        make="Qwen2VLImageProcessorPil",
        fields=PATCHES | {"size": {"shortest_edge": 1500, "longest_edge": 2000}},
    ),
}


def pictures(case: ImageCase, pixels: np.ndarray) -> list[PIL.Image.Image]:
    """Pictures of different sizes and modes: waves and noise."""
    sides = ((31, 23), (19, 37), (24, 24), (40, 21))
    return [
        PIL.Image.fromarray(pixels[:height, :width]).convert(mode)
        if mode != "RGBA"
        else PIL.Image.fromarray(
            np.dstack([pixels[:height, :width], pixels[:height, :width, :1]]), "RGBA"
        )
        for (height, width), mode in zip(sides, case.modes, strict=False)
    ]


def record(case: ImageCase, directory: Path, seed: int = 0) -> None:
    """Saves a processor as transformers does, and what it makes of some pictures."""
    import transformers

    rng = np.random.default_rng(seed)
    rows, columns = (side[..., None] for side in np.mgrid[:40, :40])
    waves = np.sin(rows / 3 + np.arange(3)) + np.cos(columns / 5 * np.arange(1, 4))
    pixels = (waves * 50 + 128 + rng.integers(-25, 25, (40, 40, 3))).astype(np.uint8)
    processor = getattr(transformers, case.make)(**case.fields)
    made = processor(pictures(case, pixels), return_tensors="np")
    directory.mkdir(exist_ok=True)
    processor.save_pretrained(directory)
    np.savez_compressed(directory / "expected.npz", picture=pixels, **made)


def read(directory: Path) -> dict[str, np.ndarray]:
    """What was recorded."""
    return dict(np.load(directory / "expected.npz"))
