"""The code tables against the papers' definitions."""

import numpy as np
from scipy.stats import norm

from lora_jax.quantization.codes import NF4, dynamic_tree, midpoints


def test_nf4_holds_the_quantiles_that_the_paper_defines():
    # 8 values above and 7 below zero, evenly spaced in probability; the outermost stands midway
    # between those of 15 and of 16 values (QLoRA, section 3; as bitsandbytes computes them).
    outermost = 1 - (1 / (2 * 15) + 1 / (2 * 16)) / 2
    above = norm.ppf(np.linspace(outermost, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(outermost, 0.5, 8)[:-1])
    values = np.sort([*above, 0.0, *below]) / above.max()
    np.testing.assert_allclose(NF4, values, rtol=3e-6)
    assert np.flatnonzero(NF4 == 0).tolist() == [7]


def test_the_scales_table_holds_every_sign_exponent_and_fraction_once():
    # An exponent of n leading zeros leaves 6 - n bits of fraction: the middles of 2^(6-n) steps
    # from 0.1 to 1, times 10^-n.
    expected = [0.0, 1.0]
    for zeros in range(7):
        steps = 2 ** (6 - zeros)
        middles = [0.1 + 0.9 * (i + 0.5) / steps for i in range(steps)]
        expected += [sign * 10.0**-zeros * m for m in middles for sign in (1, -1)]
    np.testing.assert_allclose(dynamic_tree(), np.sort(expected), rtol=1e-6, atol=1e-13)


def test_midpoints_lie_halfway():
    np.testing.assert_array_equal(midpoints(np.array([-1, 0, 4], np.float32)), [-0.5, 2])
