"""What Qwen2.5-VL needs to know of the sizes of images, computed before anything is compiled."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Int


class VisionPlan(NamedTuple):
    """Where the patches of a batch's images lie, and which look at each other.

    Its arrays are inputs of the model: images whose plans have the same shapes share a program.

    Attributes:
        places: `[patches, 2]`: row and column of each patch in its image.
        windows: `[windows, size]`: the patches of each window; -1 fills up small ones.
        in_windows: `[patches]`: where a patch stands in the flattened `windows`.
        images: `[images, size]`: the patches of each image; -1 fills up small ones.
        in_images: `[patches]`: where a patch stands in the flattened `images`.
    """

    places: Int[Array | np.ndarray, "patches 2"]
    windows: Int[Array | np.ndarray, "windows window_size"]
    in_windows: Int[Array | np.ndarray, " patches"]
    images: Int[Array | np.ndarray, "images image_size"]
    in_images: Int[Array | np.ndarray, " patches"]


def plan_vision(grid: Int[np.ndarray, "images 3"], *, merge: int, window: int) -> VisionPlan:
    """Plans one pass over images.

    Args:
        grid: how many patches each image is long in time (1), high and wide.
        merge: patches of a square of `merge` × `merge` follow one another and become one token.
        window: height and width of a window in such squares.

    Returns:
        The plan, in int32.

    Raises:
        ValueError: the grid is not one of images, or its sides are no multiples of `merge`.
    """
    grid = check_grid(grid, merge)
    places, windows, images = [], [], []
    first = 0
    for number, (_, height, width) in enumerate(grid.tolist()):
        place = np.indices((height, width)).reshape(2, height // merge, merge, width // merge, -1)
        place = place.transpose(1, 3, 2, 4, 0).reshape(-1, 2)
        across = -(-width // (merge * window))
        in_window = place // (merge * window)
        windows.append(first + in_window[:, 0] * across + in_window[:, 1])
        images.append(np.full(len(place), number))
        places.append(place)
        first = windows[-1].max() + 1
    groups = (*_group(np.concatenate(windows)), *_group(np.concatenate(images)))
    return VisionPlan(np.concatenate(places).astype(np.int32), *groups)


def plan_positions(
    ids: Int[np.ndarray, "batch length"],
    mask: Int[np.ndarray, "batch length"],
    grid: Int[np.ndarray, "images 3"],
    *,
    image_id: int,
    merge: int,
) -> Int[np.ndarray, "3 batch length"]:
    """Numbers tokens by time, row and column.

    A token of text has one number for all three. An image stands at one time; its rows and columns
    are counted from there, and the text goes on after the larger of them.

    Args:
        ids: token ids, `image_id` for each square of an image.
        mask: 1 for real tokens, 0 for padding.
        grid: the sizes of all images in the order of the text.
        image_id: id of the token that stands for a square of an image.
        merge: patches that a square is high and wide.

    Returns:
        The positions in int32; 0 for padding.

    Raises:
        ValueError: the texts have more or fewer tokens for images than the images need.

    Source: Wang et al., 2024, section 2.1.
    """
    grid = check_grid(grid, merge)
    positions = np.zeros((3, *ids.shape), np.int32)
    used = 0
    for row, (row_ids, row_mask) in enumerate(zip(ids, mask, strict=True)):
        real = np.flatnonzero(row_mask)
        marked = row_ids[real] == image_id
        i = now = 0
        while i < len(real):
            if not marked[i]:
                positions[:, row, real[i]] = now
                i, now = i + 1, now + 1
                continue
            _, height, width = (grid[used] // merge).tolist() if used < len(grid) else (1, 1, 1)
            size, used = height * width, used + 1
            if used > len(grid) or not marked[i : i + size].all() or i + size > len(real):
                _raise_count(int((ids[mask != 0] == image_id).sum()), grid, merge)
            steps = np.stack([np.zeros((height, width)), *np.indices((height, width))])
            positions[:, row, real[i : i + size]] = now + steps.reshape(3, -1)
            i, now = i + size, now + max(height, width)
    if used < len(grid):
        _raise_count(int((ids[mask != 0] == image_id).sum()), grid, merge)
    return positions


def check_grid(grid: Int[np.ndarray, "images 3"], merge: int) -> Int[np.ndarray, "images 3"]:
    """Checks that a grid is one of images that can be merged.

    Raises:
        ValueError: it is not.
    """
    grid = np.asarray(grid)
    if (grid[:, 0] != 1).any():
        raise ValueError(
            f"a grid is {int(grid[:, 0].max())} long in time; videos are not supported, only images"
        )
    if (grid[:, 1:] % merge).any() or (grid < 1).any():
        raise ValueError(f"grid {grid.tolist()} has sides that are no multiples of {merge}")
    return grid


def _raise_count(tokens: int, grid: np.ndarray, merge: int) -> None:
    needed = (grid[:, 1] * grid[:, 2] // merge**2).tolist()
    raise ValueError(
        f"the texts have {tokens} tokens for images, but {len(grid)} images need {sum(needed)}: "
        f"{needed}"
    )


def _group(labels: Int[np.ndarray, " patches"]) -> tuple[np.ndarray, np.ndarray]:
    """The members of each label, -1 after the last, and where each one stands among them."""
    order = np.argsort(labels, kind="stable")
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    group = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(labels)) - np.repeat(first, counts)
    groups = np.full((len(counts), counts.max()), -1, np.int32)
    groups[group, place] = order
    slots = np.empty(len(labels), np.int32)
    slots[order] = group * counts.max() + place
    return groups, slots
