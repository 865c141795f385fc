"""The benchmark of lifting: its model, and what it makes of the times it took."""

import jax
import numpy as np
import pytest

from scripts import bench_lift

SMALL = {
    "layers": 2,
    "dim": 16,
    "hidden": 24,
    "heads": 2,
    "vocabulary": 32,
    "batch": 2,
    "length": 6,
}


def test_medians_are_shown_with_their_ratio_to_the_model_by_hand():
    times = {
        "by hand": bench_lift.Times(0.5, 2.0, 3e9, 5 << 20, [0.1, 0.3, 0.2]),
        "lifted": bench_lift.Times(0.75, 2.5, 4e9, 6 << 20, [9.0, 0.25, 0.25]),
    }
    assert bench_lift.table(times).splitlines()[2:] == [
        "| by hand | 0.50 | 2.00 | 200.0 | 1.00 | 3.0 | 5 |",
        "| lifted | 0.75 | 2.50 | 250.0 | 1.25 | 4.0 | 6 |",
    ]


@pytest.mark.parametrize("scan", [True, False], ids=["scanned", "unrolled"])
def test_lora_by_hand_lifted_and_on_dense_weights_have_one_gradient(scan):
    shape = bench_lift.Shape(**SMALL, rank=3, scan=scan)
    params = bench_lift.init(jax.random.key(0), shape)
    ids = jax.random.randint(jax.random.key(1), (2, 6), 0, 32)
    lifted = bench_lift.lift(params, ids, shape)
    factors = jax.tree.map(lambda leaf: leaf + 0.1, lifted.init(jax.random.key(2), params))
    gradients = bench_lift.contenders(lifted, shape)
    by_hand, *others = (
        jax.jit(gradients[name])(factors, params, ids)
        for name in ("by hand", "lifted", "dense W + ΔW")
    )
    for other in others:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), by_hand, other
        )


def test_a_token_is_predicted_from_those_before_it_alone():
    """Uniform logits lose log(vocabulary); a change of the last token changes no logits before."""
    ids = jax.numpy.arange(6)[None]
    loss = bench_lift.next_token_loss(jax.numpy.zeros((1, 6, 32)), ids)
    np.testing.assert_allclose(loss, np.log(32), rtol=1e-6)
    shape = bench_lift.Shape(**SMALL)
    params = bench_lift.init(jax.random.key(0), shape)
    before = bench_lift.apply(params, ids, shape)
    after = bench_lift.apply(params, ids.at[0, -1].set(31), shape)
    np.testing.assert_allclose(before[:, :-1], after[:, :-1], rtol=1e-5, atol=1e-6)
    assert np.abs(before[:, -1] - after[:, -1]).max() > 1e-3
