"""The benchmark of the input pipeline: what its rates are made of, and its table."""

import itertools

import numpy as np
import pytest

from scripts import bench_data


def test_all_stages_together_take_as_long_as_one_after_another():
    rates = dict(bench_data.stages(1000, reading=1.0, encoding=2.0, packing=0.5, batching=400.0))
    assert rates == {
        "reading files": 1000,
        "tokenising": 500,
        "packing": 2000,
        "batching": 400,
        "all, in the first pass": 1000 / (1.0 + 2.0 + 0.5 + 1000 / 400),
    }
    assert "packing" not in dict(bench_data.stages(10, 1.0, 1.0, 0.0, 1.0))


def test_ratios_are_to_what_a_step_takes_in():
    lines = bench_data.table("Sets", [("packing", 5000.0), ("batching", 1234.5)], 100.0)
    assert lines[0] == "Sets, batches of 16; a training step takes in 100 tokens a second:"
    assert lines[4:6] == ["| packing | 5,000 | 50.0 |", "| batching | 1,234 | 12.3 |"]


def test_batches_are_counted_by_their_real_tokens(monkeypatch):
    seconds = iter([0.0, 2.0] * 5)
    monkeypatch.setattr(bench_data.time, "perf_counter", lambda: next(seconds))
    batches = itertools.repeat({"mask": np.array([[1, 1, 0]])})
    rate = bench_data.batch_rate(batches, lambda batch: int(batch["mask"].sum()))
    assert rate == pytest.approx(50 * 2 / 2.0)
