"""The benchmark of serving: what it multiplies, and what it makes of the times it took."""

import argparse

import numpy as np
import pytest

from lora_jax.evaluation import Latency
from scripts import bench_serving


def test_all_ways_to_multiply_rows_with_their_own_factors_agree():
    calls = bench_serving.make_products(rows=5, length=3, dim=16, adapters=2)
    first, *others = (np.asarray(call()) for call in calls.values())
    assert first.shape == (5, 3, 16)
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-4, atol=1e-4)


def test_ratios_are_of_calls_in_the_same_round():
    seconds = {"base": [1.0, 2.0, 4.0], "routed": [2.0, 4.0, 8.0], "PEFT mixed": [10.0, 20.0, 40.0]}
    found = {name: Latency(np.array(times)) for name, times in seconds.items()}
    shape = bench_serving.Shape(rows=10, new=10)
    assert bench_serving.rates_row(shape, found).split(" | ") == [
        "| 12 x 768, float32",
        *("50", "", "25", "", "5"),
        *("0.50 (0.50 – 0.50)", "", "5.00 (5.00 – 5.00)", " |"),
    ]
    head, line = bench_serving.header().splitlines()
    assert head.count("|") == line.count("|") == 11


def test_a_size_is_layers_and_width():
    assert bench_serving.size("12x768") == (12, 768)
    for wrong in ("12", "0x64", "2x100", "ax64"):
        with pytest.raises(argparse.ArgumentTypeError, match="layers x width"):
            bench_serving.size(wrong)


def test_the_contenders_write_what_they_are_asked_for():
    shape = bench_serving.Shape(rows=2, prompt=3, new=2, dim=64, layers=1)
    calls, pool, adapter = bench_serving.make_ours(shape)
    texts = {name: np.asarray(call().tokens) for name, call in calls.items()}
    assert {text.shape for text in texts.values()} == {(2, 2)}
    assert texts["routed"][0].tolist() == texts["one adapter"][0].tolist()
    assert all(time > 0 for time in bench_serving.time_switching(pool, adapter))
