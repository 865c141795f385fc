"""The benchmark of training: what it makes of what it measured, and that all take the same step."""

import sys

import pytest

from scripts import bench_training
from scripts.bench_processes import Found
from scripts.bench_training_contenders import (
    LEVERS,
    QUICK_SHAPES,
    Contender,
    Shape,
    our_step,
    save_model,
)


def test_speed_memory_and_utilisation_are_put_beside_those_of_peft():
    shape = Shape("gpt2", 1, 10, layers=1, dim=10, heads=1, vocabulary=100)
    # 1200 weights in the layer and 1000 in the head; attention costs 200 products a token.
    assert shape.flops == 4 * 10 * (1200 + 1000 + 200)
    found = {
        Contender("PEFT", "float32"): Found(0.5, 1e6, 2.0, [1.0, 3.0, 2.0], 10**9),
        Contender("PEFT", "bfloat16"): Found(0.5, 1e6, 2.0, [1.0], 5 * 10**8),
        Contender("lora_jax", "bfloat16"): Found(7.0, 2e6, 2.0, [0.5, 0.5], 10**9, 2 * 10**9),
    }
    rows = bench_training.table(shape, found).splitlines()[2:]
    assert rows[0] == (
        "| PEFT float32 | 5 | 1.00 | 1.00 | 1.00 | 1.00 | 0.00 | 0.5 | 5% | 2.000000 |"
    )
    assert rows[2] == (
        "| lora_jax bfloat16 | 20 | 4.00 | 2.00 | 1.00 | 2.00 | 2.00 | 7.0 | 10% | 2.000000 |"
    )
    assert "PEFT float32 0, PEFT bfloat16 0, lora_jax bfloat16 0" in bench_training.limits(found)


def test_without_torch_only_ours_are_measured(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert [str(one) for one in bench_training.choose_contenders(True)] == [
        "lora_jax float32",
        "lora_jax bfloat16",
    ]


def test_options_out_of_range_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_training.py", "--only", "9"])
    with pytest.raises(SystemExit):
        bench_training.main()
    assert "--only below 3" in capsys.readouterr().err


def test_settings_of_ours_are_put_beside_the_default():
    shape = Shape("gpt2", 1, 10)
    found = {
        Contender("lora_jax", "float32", lever=name): Found(0.5, 1e6, 2.0, [seconds], 10**9)
        for name, seconds in (("", 1.0), ("scan", 2.0))
    }
    header, _, default, scan = bench_training.table(shape, found, "lora_jax").splitlines()
    assert "to lora_jax float32" in header
    assert default.startswith("| lora_jax float32 | 10 | 1.00 |")
    assert scan.startswith("| lora_jax float32, scan | 5 | 0.50 |")
    assert bench_training.limits(found) == "Matrix products, GFLOP/s: lora_jax float32 0."


@pytest.mark.slow
def test_every_setting_of_the_step_takes_the_same_first_step(tmp_path):
    shape = QUICK_SHAPES[0]
    save_model(shape, tmp_path)
    losses = {
        name: our_step(shape, "float32", str(tmp_path), lever)()
        for name, lever in LEVERS.items()
        if not lever.environment
    }
    assert len(losses) > 5
    assert losses == pytest.approx(dict.fromkeys(losses, losses[""]), rel=1e-5)


@pytest.mark.slow
def test_a_setting_of_the_process_takes_the_same_first_step():
    contenders = [Contender("lora_jax", "float32", lever=name) for name in ("", "YNN off")]
    shape = QUICK_SHAPES[0]
    found, failed = bench_training.measure(shape, contenders, rounds=1, threads=1)
    assert not failed
    default, own = (found[one] for one in contenders)
    assert own.loss == pytest.approx(default.loss, rel=1e-5)
    assert own.seconds


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("shape", QUICK_SHAPES, ids=str)
def test_all_take_the_same_first_step(shape):
    for module in ("torch", "transformers", "peft"):
        pytest.importorskip(module)
    contenders = [Contender(library, "float32") for library in ("PEFT", "lora_jax")]
    found, failed = bench_training.measure(shape, contenders, rounds=1, threads=1)
    assert not failed
    theirs, ours = (found[one] for one in contenders)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    assert len(ours.seconds) == len(theirs.seconds) == 1
    assert ours.peak > 10**8
