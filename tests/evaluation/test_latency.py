"""Latencies of functions whose duration is known, and the interval's exact coverage."""

import time

import numpy as np
import pytest
import scipy.stats

from lora_jax.evaluation import Latency, measure_latency
from lora_jax.evaluation.latency import median_interval


def test_latency_ranks_functions_of_known_duration():
    times = measure_latency(
        {"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.02)}, rounds=7, warmup=0
    )
    assert times["short"].median >= 0.002
    assert times["long"].median >= 0.02
    ratio, low, high = times["long"].ratio_to(times["short"])
    assert 1 < low <= ratio <= high


def test_every_round_calls_every_function_once_in_an_order_fixed_by_the_seed():
    def record(seed):
        calls = []
        functions = {name: lambda name=name: calls.append(name) for name in "abcd"}
        measure_latency(functions, rounds=20, warmup=1, seed=seed)
        return calls

    calls = record(seed=0)
    assert calls[:4] == list("abcd"), "warm-up comes first"
    rounds = [tuple(calls[start : start + 4]) for start in range(4, len(calls), 4)]
    assert len(rounds) == 20
    assert all(sorted(round_) == list("abcd") for round_ in rounds)
    assert len(set(rounds)) > 5, "the order varies"
    assert record(seed=0) == calls
    assert record(seed=1) != calls


def test_drift_of_the_machine_cancels_in_the_ratio():
    drift = np.linspace(1, 10, 30)
    slow, fast = Latency(3 * drift), Latency(2 * drift)
    assert slow.ratio_to(fast) == pytest.approx((1.5, 1.5, 1.5))


def test_percentiles_are_compared_by_rounds_that_stay_paired():
    drift = np.linspace(1, 10, 40)
    slow, fast = Latency(3 * drift), Latency(2 * drift)
    assert slow.p95_ratio_to(fast) == pytest.approx((1.5, 1.5, 1.5))
    noisy = Latency(2 * drift * (1 + 0.2 * np.random.default_rng(0).standard_normal(40)))
    ratio, low, high = noisy.p95_ratio_to(fast)
    assert low < ratio < high
    assert low < 1 < high, "forty rounds do not tell them apart"


def test_quantiles_are_those_of_the_samples():
    latency = Latency(np.arange(1.0, 102.0))
    assert latency.median == 51
    assert latency.p95 == 96
    low, high = latency.interval
    assert latency.relative_error == pytest.approx((high - low) / 2 / 51)


@pytest.mark.parametrize("count", [6, 10, 25, 50, 200])
def test_median_interval_is_the_narrowest_that_holds_95_times_in_100(count):
    low, high = median_interval(np.arange(count, dtype=float))
    assert low + high == count - 1, "symmetric"
    # The interval misses when `low` or fewer values fall on one side of the true median.
    missed = 2 * scipy.stats.binom.cdf(low, count, 0.5)
    assert missed <= 0.05
    assert 2 * scipy.stats.binom.cdf(low + 1, count, 0.5) > 0.05


def test_small_samples_give_their_extremes():
    assert median_interval(np.array([3.0, 1.0, 2.0])) == (1.0, 3.0)


def test_latencies_of_different_measurements_cannot_be_paired():
    with pytest.raises(ValueError, match="3 rounds against 4"):
        Latency(np.ones(3)).ratio_to(Latency(np.ones(4)))
    with pytest.raises(ValueError, match="3 rounds against 4"):
        Latency(np.ones(3)).p95_ratio_to(Latency(np.ones(4)))


@pytest.mark.parametrize(("calls", "rounds"), [({}, 5), ({"a": lambda: None}, 0)])
def test_nothing_to_time_is_refused(calls, rounds):
    with pytest.raises(ValueError, match="nothing to time"):
        measure_latency(calls, rounds=rounds)
