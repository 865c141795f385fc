"""The code tables: what each code of four or eight bits stands for."""

from __future__ import annotations

import numpy as np

# Dettmers et al., "QLoRA", arXiv 2305.14314, appendix E: 16 quantiles of a normal distribution,
# scaled to [-1, 1], with an exact zero.
NF4 = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)


def dynamic_tree() -> np.ndarray:
    """The 256 values of an 8-bit float with a sign and an exponent of varying length.

    Each decade below 1 is cut into twice as many equal parts as the one before, each part standing
    for its middle; 0 and 1 are exact (Dettmers, "8-Bit Approximations for Parallelism in Deep
    Learning", arXiv 1511.04561, section 2.2, as bitsandbytes builds it).

    >>> table = dynamic_tree()
    >>> table.shape, float(table[-1]), float(table[127])
    ((256,), 1.0, 0.0)
    """
    positive = []
    for exponent in range(7):
        edges = np.linspace(0.1, 1.0, 2**exponent + 1)
        positive.append(10.0 ** (exponent - 6) * (edges[:-1] + edges[1:]) / 2)
    values = np.concatenate(positive)
    return np.sort(np.concatenate([-values, [0.0, 1.0], values])).astype(np.float32)


def midpoints(table: np.ndarray) -> np.ndarray:
    """Where the nearest value of a sorted table changes from one to the next."""
    return ((table[:-1].astype(np.float64) + table[1:]) / 2).astype(np.float32)
