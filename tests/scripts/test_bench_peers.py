"""The benchmark beside other libraries of JAX: its table, and that all take the same step."""

import importlib.util
import sys

import pytest

from scripts import bench_peers
from scripts.bench_llama import Llama
from scripts.bench_peers import Contender
from scripts.bench_processes import Found

TINY = Llama(batch=2, length=8, dim=64, layers=1, vocabulary=97)
MODULES = {"Tunix": "tunix", "Qwix": "qwix", "KerasHub": "keras_hub"}


def test_each_is_compared_with_ours_of_the_same_type():
    found = {
        Contender("lora_jax", "float32"): Found(2.0, 0.0, 3.0, [1.0, 3.0, 2.0], 10**9),
        Contender("Tunix", "float32"): Found(4.0, 0.0, 3.0, [5.0], 3 * 10**9),
        Contender("Tunix", "bfloat16"): Found(4.0, 0.0, 3.0, [5.0], 10**9),
    }
    header, line, *rows = bench_peers.table(found, 20).splitlines()
    assert rows[0] == "| lora_jax float32 | 10 | 1.00 | 1.00 | 1.00 | 2.0 | 1.00 | 3.000000 |"
    assert rows[1] == "| Tunix float32 | 4 | 2.50 | 3.00 | 3.00 | 4.0 | 2.00 | 3.000000 |"
    assert rows[2] == "| Tunix bfloat16 | 4 |  | 1.00 |  | 4.0 |  | 3.000000 |"
    assert header.count("|") == line.count("|") == rows[0].count("|")


def test_versions_are_those_of_the_environment_and_what_lacks_is_named(monkeypatch):
    assert bench_peers.installed(sys.executable, "lora_jax").startswith("jax 0.")
    monkeypatch.setitem(bench_peers.PACKAGES, "lora_jax", ("no-such-package",))
    assert "no-such-package" in bench_peers.installed(sys.executable, "lora_jax")


def test_sizes_out_of_range_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_peers.py", "--dim=100"])
    with pytest.raises(SystemExit):
        bench_peers.main()
    assert "multiple of 64" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("library", MODULES)
def test_all_take_the_same_first_step(library):
    if importlib.util.find_spec(MODULES[library]) is None:
        pytest.skip(f"{MODULES[library]} is not installed")
    contenders = [Contender("lora_jax", "float32"), Contender(library, "float32")]
    found, failed = bench_peers.measure(contenders, TINY, rounds=1, cores=1)
    assert not failed
    ours, theirs = (found[one] for one in contenders)
    assert theirs.loss == pytest.approx(ours.loss, rel=1e-5)
    assert len(ours.seconds) == len(theirs.seconds) == 1
