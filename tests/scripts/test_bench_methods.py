"""The benchmark of methods: its table, what it times, and how it measures memory."""

import jax
import numpy as np
import pytest

import lora_jax as lora
from scripts import bench_methods, bench_methods_contenders

SHAPE = bench_methods_contenders.Shape(
    dim=64, layers=1, vocabulary=32, batch=2, length=6, scan=True
)
MIB = 2**20


def test_ratios_are_to_lora_and_those_of_peft_to_its_own():
    costs = {
        "LoRA": bench_methods.Cost(MIB, 2 * MIB, [0.1, 0.3, 0.2]),
        "DoRA": bench_methods.Cost(3 * MIB, None, [0.25]),
        "PEFT LoRA": bench_methods.Cost(None, 5 * MIB, [0.5]),
        "PEFT DoRA": bench_methods.Cost(None, 7 * MIB, [1.0]),
        "Full": bench_methods.Cost(MIB, MIB, [0.5]),
    }
    assert bench_methods.table(costs).splitlines()[2:] == [
        "| LoRA | 200.0 | 1.00 | 1 | 2 | 500.0 | 1.00 | 5 | 0.40 |",
        "| DoRA | 250.0 | 1.25 | 3 |  | 1000.0 | 2.00 | 7 | 0.25 |",
        "| Full | 500.0 | 2.50 | 1 | 1 |  |  |  |  |",
    ]
    text = bench_methods.section(costs, SHAPE, 3)
    assert "DoRA's step takes 1.25 times LoRA's" in text
    assert jax.__version__ in text


def test_the_gradient_of_what_trains_is_timed_on_every_projection():
    step, temporary = bench_methods_contenders.make_step("LoRA-FA", SHAPE)
    gradient = step()
    assert len(gradient) == len(bench_methods_contenders.LINEAR)
    assert all(set(arrays) == {"b"} for arrays in gradient.values())
    assert all(abs(arrays["b"]).max() > 0 for arrays in gradient.values())
    assert temporary is None or temporary > 0


def test_every_method_of_the_library_is_measured():
    measured = {
        type(method)
        for contender in bench_methods_contenders.METHODS.values()
        for method in contender.targets.values()
    }
    methods = {
        name for name in lora.methods.__all__ if isinstance(getattr(lora.methods, name), type)
    }
    known = {name for name in methods if hasattr(getattr(lora.methods, name), "delta")}
    known.remove("Fused")  # it is made of another method
    assert known <= {kind.__name__ for kind in measured}


def test_memory_is_what_a_step_holds_at_its_highest():
    def step():
        return np.ones(4 * MIB).sum()  # 32 MiB

    found = bench_methods.resident(step)
    if found is None:
        pytest.skip("this system does not tell the highest resident memory")
    assert 30 * MIB < found < 48 * MIB


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", [n for n, c in bench_methods_contenders.METHODS.items() if c.kind])
def test_peft_trains_as_many_parameters_with_the_same_method(name):
    pytest.importorskip("peft")
    step, _ = bench_methods_contenders.make_step(name, SHAPE)
    ours = sum(leaf.size for leaf in jax.tree.leaves(step()))
    model = bench_methods_contenders.make_peft_model(name, SHAPE)
    assert ours == sum(p.numel() for p in model.parameters() if p.requires_grad)
