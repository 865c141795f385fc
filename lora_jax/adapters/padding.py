"""LoRA's arrays at a larger rank: zeros beyond their own, so that ΔW stays what it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lora_jax.lifting import Weight


def pad_rank(arrays: Mapping[str, Any], weight: Weight, rank: int) -> dict[str, np.ndarray]:
    """The arrays of one site with zeros up to a rank; the scale is the caller's.

    Args:
      arrays: ``a (*batch, *in, r)`` and ``b (*batch, r, *out)``, r at most `rank`; others, such as
        DoRA's ``m``, stay as they are.
      weight: what they adapt.
      rank: of the result.

    Returns:
      Arrays on the host.

    >>> weight = Weight("w", (4, 3), "float32", batch=(), ins=(0,), outs=(1,))
    >>> padded = pad_rank({"a": np.ones((4, 1)), "b": np.ones((1, 3))}, weight, 2)
    >>> padded["a"].shape, padded["b"].shape
    ((4, 2), (2, 3))
    """
    axes = {"a": len(weight.batch) + len(weight.ins), "b": len(weight.batch)}
    padded = {}
    for name, array in arrays.items():
        wide = np.asarray(array)
        if name in axes:
            widths = [(0, 0)] * wide.ndim
            widths[axes[name]] = (0, rank - wide.shape[axes[name]])
            wide = np.pad(wide, widths)
        padded[name] = wide
    return padded
