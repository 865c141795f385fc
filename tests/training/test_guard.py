import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax.training.guard import FEWEST, WINDOW
from tests.training import toy


def run(poisoned=(), steps=20, scale=np.nan, **optimizer):
    """Trains; the batches of the steps named are multiplied by `scale`."""
    step, state, frozen = toy.build(steps, **{"ema": 0.9, **optimizer})
    data, states, metrics = toy.data(), [toy.arrays(state)], []
    for number in range(1, steps + 1):
        batch = next(data)
        if number in poisoned:
            batch = jax.tree.map(lambda x: x * np.float32(scale), batch)
        state, found = step(state, frozen, batch)
        states.append(toy.arrays(state))
        metrics.append(jax.device_get(found))
    return states, metrics


def changed(before, after):
    """Paths of the arrays that differ in any bit."""
    bits = lambda x: np.ascontiguousarray(x).view(np.uint8)
    return {path for path in before if not np.array_equal(bits(before[path]), bits(after[path]))}


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "sgd", "muon"])
def test_a_step_that_is_not_finite_changes_no_bit_but_the_counts(name):
    states, metrics = run({5}, steps=6, name=name)
    counts = {path for path in changed(states[4], states[5]) if "count" not in path}
    assert counts == {".step", ".opt_state.skipped"}
    schedule = {path for path in changed(states[4], states[5]) if "count" in path}
    assert schedule == {".opt_state.inner[2].count"}
    assert [int(m["skipped"]) for m in metrics] == [0, 0, 0, 0, 1, 1]
    assert any("trainable" in path for path in changed(states[5], states[6]))


def test_a_negative_zero_stays_negative():
    step, state, frozen = toy.build(3)
    state = state._replace(trainable=jax.tree.map(lambda x: x * -0.0, state.trainable))
    before = toy.arrays(state)
    batch = jax.tree.map(lambda x: x * np.float32("nan"), next(toy.data()))
    state, _ = step(state, frozen, batch)
    assert not {path for path in changed(before, toy.arrays(state)) if "trainable" in path}


def test_a_run_goes_on_after_a_bad_batch_and_ends_with_its_schedule():
    _, metrics = run({3, 4, 11})
    assert metrics[-1]["skipped"] == 3
    _, whole = run()
    assert [m["lr"] for m in metrics] == [m["lr"] for m in whole]
    assert np.isfinite(metrics[-1]["loss"])


def test_a_leap_of_the_loss_is_left_out_once_there_are_losses_to_compare():
    _, metrics = run({4, FEWEST + 4}, scale=100.0, spike=10.0, clip=0.01)
    losses, skipped = ([float(m[name]) for m in metrics] for name in ("loss", "skipped"))
    assert losses[3] > 10 * np.median(losses[:3])
    assert skipped[FEWEST + 2] == 0
    assert losses[FEWEST + 3] > 10 * np.median(losses[: FEWEST + 3])
    assert skipped[FEWEST + 3 :] == [1] * (20 - FEWEST - 3)


def test_losses_that_stay_high_are_accepted_in_the_end():
    steps = 2 * WINDOW
    high = set(range(WINDOW, steps + 1))
    _, metrics = run(high, steps=steps, scale=100.0, spike=10.0, clip=1e-6)
    skipped = [int(m["skipped"]) for m in metrics]
    assert skipped[-1] == skipped[-8] >= WINDOW // 2 - 1


def test_a_threshold_that_ordinary_steps_exceed_is_refused():
    with pytest.raises(ValueError, match=r"optimizer\.spike = 0\.5: above 1 times the median"):
        toy.build(3, spike=0.5)


def test_it_keeps_many_adapters_apart_under_vmap():
    step, state, frozen = toy.build(3)
    batch = next(toy.data())
    bad = jax.tree.map(lambda x: x * np.float32("nan"), batch)
    both = jax.tree.map(lambda *xs: jnp.stack(xs), batch, bad)
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    after, metrics = jax.vmap(step, in_axes=(0, None, 0))(twice, frozen, both)
    assert metrics["skipped"].tolist() == [0, 1]
    moved = after.trainable["head"]["scale"] != state.trainable["head"]["scale"]
    assert moved.any(axis=-1).tolist() == [True, False]
