import numpy as np
import pytest

from lora_jax.training import make_schedule


def rates(steps=100, at=(0, 10, 20, 60, 100), tokens_per_step=None, **config):
    schedule = make_schedule({"learning_rate": 1.0, **config}, steps, tokens_per_step)
    return [round(float(schedule(step)), 4) for step in at]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [0.0, 0.5, 1.0, 0.5, 0.0]),
        ("cosine", [0.0, 0.5, 1.0, 0.5, 0.0]),
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules_warm_up_and_decay(name, expected):
    assert rates(schedule=name, warmup=0.2) == expected


def test_wsd_stays_at_the_peak_until_the_last_steps():
    at = (0, 10, 50, 80, 90, 100)
    expected = [0.0, 1.0, 1.0, 1.0, 0.5, 0.0]
    assert rates(at=at, schedule="wsd", warmup=10, decay=20) == expected
    assert rates(at=at, schedule="wsd", warmup=0.1, decay=20) == expected


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
def test_a_schedule_may_end_above_zero(name):
    assert rates(at=(99, 100, 200), schedule=name, final=0.25)[1:] == [0.25, 0.25]


def test_a_warm_up_counts_steps_a_fraction_of_the_run_or_tokens():
    in_steps = rates(warmup=20)
    assert rates(warmup=20.0) == in_steps  # as a flag gives it
    assert rates(warmup=0.2) == in_steps
    assert rates(warmup_tokens=10_000, tokens_per_step=512.3) == in_steps


def test_without_warm_up_the_first_step_is_at_the_peak():
    assert rates(at=(0, 50), warmup=0) == [1.0, 0.5]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"schedule": "step"}, "optimizer.schedule = 'step' is unknown; choices: linear, cosine"),
        ({"warmup": 10}, "optimizer.warmup = 10 is 10 steps, of a run of 10"),
        ({"warmup": 2.5}, "optimizer.warmup = 2.5: steps are whole, and fractions of a run below"),
        ({"warmup": -0.1}, "optimizer.warmup = -0.1 is -1 steps"),
        ({"schedule": "wsd", "warmup": 4, "decay": 6}, "optimizer.decay = 6 is 6 steps, of a run"),
        ({"warmup_tokens": 100}, "nothing said how many tokens a step has"),
    ],
)
def test_a_bad_length_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(config, 10)


def test_too_many_tokens_are_told_with_those_of_a_step():
    with pytest.raises(ValueError, match="1,000, of 100 a step: = 10 is 10 steps, of a run of 10"):
        make_schedule({"warmup_tokens": 1000}, 10, tokens_per_step=100)


def test_wsd_equals_its_formula_at_every_step():
    schedule = make_schedule(
        {"learning_rate": 2.0, "schedule": "wsd", "warmup": 5, "decay": 0.2, "final": 0.1}, 55
    )
    for step in range(56):
        down = 2.0 - max(0, step - 45) / 10 * (2.0 - 0.2)
        expected = min(2.0 * step / 5, down)
        np.testing.assert_allclose(float(schedule(step)), expected, rtol=1e-6)
