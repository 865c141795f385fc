"""How a model's pictures are prepared, as its preprocessor_config.json says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL.Image

from lora_jax.hub.files import read_json
from lora_jax.hub.images import ImageProcessor, Size
from lora_jax.hub.patches import PatchProcessor
from lora_jax.models.checks import check_name

_HALF = (0.5, 0.5, 0.5)
_CLIP_SCALING = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}

# What transformers assumes where a file says nothing.
_COMMON: dict[str, Any] = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": None,
    "rescale_factor": 1 / 255,
}
_CROPPED: dict[str, Any] = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "resample": 3,
    **_CLIP_SCALING,
}
_SQUARE: dict[str, Any] = {
    "size": {"height": 224, "width": 224},
    "image_mean": _HALF,
    "image_std": _HALF,
}
_PATCHES: dict[str, Any] = {
    "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280},
    "patch_size": 14,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "do_convert_rgb": True,
    "resample": 3,
    **_CLIP_SCALING,
}
_IN_PATCHES = ("Qwen2VL", "Qwen2_5_VL")
_DEFAULTS: dict[str, dict[str, Any]] = {
    "CLIP": _CROPPED,
    "Llava": _CROPPED,
    "ViT": _SQUARE | {"resample": 2},
    "Siglip": _SQUARE | {"resample": 3, "do_convert_rgb": True},
    **dict.fromkeys(_IN_PATCHES, _PATCHES),
}


def read_image_processor(directory: str | Path) -> ImageProcessor | PatchProcessor:
    """Reads how a model's pictures are prepared.

    Args:
        directory: holds `preprocessor_config.json`, or `processor_config.json` that has it inside.

    Returns:
        The processor: of Qwen's models one that makes patches, else one that makes whole images.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it asks for what is not supported.
    """
    fields = _read_fields(Path(directory))
    kind = _kind(fields)
    check_name("image_processor_type", kind, tuple(_DEFAULTS))
    fields = _COMMON | _DEFAULTS[kind] | fields
    _check_supported(fields)
    convert = bool(fields["do_convert_rgb"])
    scaling = _read_scaling(fields)
    if kind in _IN_PATCHES:
        return PatchProcessor(
            **_read_patches(fields), resample=fields["resample"], convert=convert, **scaling
        )
    size = _read_size(fields["size"], square=kind == "ViT")
    return ImageProcessor(
        resize=size if fields["do_resize"] else None,
        resample=fields["resample"],
        crop=_read_crop(fields["crop_size"]) if fields["do_center_crop"] else None,
        convert=convert,
        **scaling,
    )


def _read_fields(directory: Path) -> dict[str, Any]:
    """The content of preprocessor_config.json, wherever it stands."""
    path = directory / "preprocessor_config.json"
    whole = directory / "processor_config.json"
    if path.is_file() or not whole.is_file():
        return read_json(path)
    fields = read_json(whole).get("image_processor")
    if not isinstance(fields, dict):
        raise FileNotFoundError(f"{directory} has no {path.name}, and {whole.name} holds no images")
    return fields


def _kind(fields: Mapping[str, Any]) -> str:
    """The name of the processor's class in transformers, without what tells versions apart."""
    name = fields.get("image_processor_type") or fields.get("feature_extractor_type") or ""
    for end in ("Pil", "Fast", "ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(end)
    return str(name)


def _read_scaling(fields: Mapping[str, Any]) -> dict[str, Any]:
    """How pixels are scaled and normalised; channels stay as they are where the file says so."""
    plain = not fields["do_normalize"]
    return {
        "scale": float(fields["rescale_factor"]) if fields["do_rescale"] else 1.0,
        "mean": (0.0, 0.0, 0.0) if plain else tuple(fields["image_mean"]),
        "std": (1.0, 1.0, 1.0) if plain else tuple(fields["image_std"]),
    }


def _read_patches(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of patches, and between how many pixels a picture has; older files name these two."""
    if not fields["do_resize"]:
        raise ValueError("do_resize is false in preprocessor_config.json, but patches need it")
    if fields["temporal_patch_size"] < 1:
        raise ValueError(f"temporal_patch_size is {fields['temporal_patch_size']}")
    size = fields["size"]
    return {
        "min_pixels": fields.get("min_pixels") or size["shortest_edge"],
        "max_pixels": fields.get("max_pixels") or size["longest_edge"],
        "patch": fields["patch_size"],
        "merge": fields["merge_size"],
        "frames": fields["temporal_patch_size"],
    }


def _check_supported(fields: Mapping[str, Any]) -> None:
    if fields.get("do_pad"):
        raise ValueError("do_pad is true in preprocessor_config.json, but padding is not supported")
    known = [int(filter_) for filter_ in PIL.Image.Resampling]
    if fields["resample"] not in known:
        raise ValueError(f"resample {fields['resample']!r} is none of Pillow's filters, {known}")


def _read_size(size: Any, *, square: bool) -> Size:
    if isinstance(size, int):
        return (size, size) if square else size
    if set(size) == {"height", "width"}:
        return size["height"], size["width"]
    if set(size) == {"shortest_edge"}:
        return int(size["shortest_edge"])
    raise ValueError(f"size {size} is not supported; height and width, or shortest_edge, are")


def _read_crop(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size["height"], size["width"])
