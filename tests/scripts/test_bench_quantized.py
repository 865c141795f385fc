"""The benchmark of quantised bases: its table, and that its steps train what it says."""

import importlib.util
import math
import sys

import pytest

from scripts import bench_llama, bench_quantized
from scripts.bench_llama import Llama
from scripts.bench_processes import Found
from scripts.bench_quantized import Contender

TINY = Llama(batch=2, length=8, dim=64, layers=1, vocabulary=97, rows=2, prompt=3, new=2)


def test_each_is_compared_with_dense_bases_and_with_peft():
    found = {
        Contender("lora_jax", "float32"): Found(2.0, 4e6, 3.0, [2.0], 4 * 10**9),
        Contender("lora_jax", "nf4"): Found(3.0, 1e6, 3.5, [5.0, 4.0, 1.0], 10**9),
        Contender("PEFT", "nf4"): Found(0.0, 2e6, 3.25, [8.0], 2 * 10**9),
    }
    header, line, *rows = bench_quantized.table(found, 40, "step").splitlines()
    assert rows == [
        "| lora_jax, float32 | 20 | 1.00 |  |  | 4 | 4.00 | 1.00 | 2.0 | 3.0000 |",
        "| lora_jax, nf4 | 10 | 0.50 |  | 2.00 | 1 | 1.00 | 0.25 | 3.0 | 3.5000 |",
        "| PEFT with bitsandbytes, nf4 | 5.0 |  |  | 1.00 | 2 | 2.00 |  | 0.0 | 3.2500 |",
    ]
    assert header.count("|") == line.count("|") == rows[0].count("|")


def test_sizes_out_of_range_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_quantized.py", "--rounds=0"])
    with pytest.raises(SystemExit):
        bench_quantized.main()
    assert "at least 1" in capsys.readouterr().err


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("base")
    TINY.save(directory)
    return str(directory)


def test_a_step_over_nf4_learns_and_holds_less(directory):
    held = {}
    for base in ("float32", "nf4"):
        step, held[base] = bench_quantized.make(
            Contender("lora_jax", base), TINY, directory, "step"
        )
    first, second = step(), step()
    assert first == pytest.approx(math.log(TINY.vocabulary), rel=0.05)
    assert second < first
    linear = TINY.layers * TINY.dim * (4 * TINY.dim + 3 * TINY.ff_dim)
    dense = 2 * TINY.dim * TINY.vocabulary + (2 * TINY.layers + 1) * TINY.dim
    assert held["float32"] == 4 * (linear + dense)
    assert held["nf4"] == pytest.approx(0.52 * linear + 2 * dense, rel=0.05)


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("what", ["step", "texts"])
def test_peft_works_beside_ours(what):
    for module in ("torch", "transformers", "peft"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    contenders = [Contender(library, "float32") for library in ("lora_jax", "PEFT")]
    found, failed = bench_quantized.measure(contenders, TINY, what, rounds=1, cores=1)
    assert not failed
    ours, theirs = (found[one] for one in contenders)
    assert ours.told == theirs.told
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    assert bench_llama.RANK == bench_llama.ALPHA
