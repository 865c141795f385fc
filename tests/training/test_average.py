import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax.training.average import averaged, track_average
from tests.training import toy


def test_the_average_follows_what_trains():
    step, state, frozen = toy.build(10, ema=0.75)
    expected = toy.arrays(state)
    data = toy.data()
    for _ in range(4):
        state, _ = step(state, frozen, next(data))
        expected = {path: 0.75 * expected[path] + 0.25 * x for path, x in toy.arrays(state).items()}
    average = averaged(state.trainable, state.opt_state)
    np.testing.assert_allclose(
        average["head"]["scale"], expected[".trainable['head']['scale']"], rtol=1e-6
    )
    b = ".trainable['adapter']['layer/kernel']['b']"
    np.testing.assert_allclose(average["adapter"]["layer/kernel"]["b"], expected[b], rtol=1e-6)
    assert average["params"]["layer"]["kernel"] is None  # frozen


def test_a_slow_average_of_bfloat16_does_not_stand_still():
    """In bfloat16, 1 + 0.001 is 1: the average is kept in float32."""
    arrays = {"w": jnp.zeros(3, jnp.bfloat16)}
    tracked = track_average(0.999)
    state = tracked.init(arrays)
    for _ in range(100):
        _, state = tracked.update({"w": jnp.zeros(3, jnp.bfloat16)}, state, {"w": jnp.ones(3)})
    np.testing.assert_allclose(state.average["w"], 1 - 0.999**100, rtol=1e-4)
    assert averaged(arrays, (state,))["w"].dtype == jnp.bfloat16


def test_no_average_and_a_bad_decay_are_refused():
    _, state, _ = toy.build(10)
    with pytest.raises(ValueError, match=r"set optimizer\.ema"):
        averaged(state.trainable, state.opt_state)
    with pytest.raises(ValueError, match=r"optimizer\.ema = 1\.5: a decay is above 0 and below 1"):
        toy.build(10, ema=1.5)
