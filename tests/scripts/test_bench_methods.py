"""The benchmark of methods: its table, and that each method stands on every projection."""

import jax

from scripts import bench_lift, bench_methods

SHAPE = bench_lift.Shape(layers=2, dim=16, hidden=32, heads=2, vocabulary=32, batch=2, length=6)


def test_ratios_are_to_lora_and_those_of_peft_to_its_own():
    costs = {
        "LoRA": bench_methods.Cost(2**20, [0.1, 0.3, 0.2]),
        "DoRA": bench_methods.Cost(3 * 2**20, [0.25]),
        "PEFT LoRA": bench_methods.Cost(None, [0.5]),
        "PEFT DoRA": bench_methods.Cost(None, [1.0]),
    }
    assert bench_methods.table(costs).splitlines()[2:] == [
        "| LoRA | 200.0 | 1.00 | 1 | 500.0 | 1.00 |",
        "| DoRA | 250.0 | 1.25 | 3 | 1000.0 | 2.00 |",
    ]


def test_the_gradient_of_a_method_is_timed_on_every_projection():
    params = bench_lift.init(jax.random.key(0), SHAPE)
    ids = jax.random.randint(jax.random.key(1), (2, 6), 0, 32)
    step, memory = bench_methods.make_step(bench_methods.METHODS["IA3"], params, ids, SHAPE)
    gradient = step()
    assert set(gradient) == {f"layers/{name}" for name in bench_lift.PROJECTIONS}
    assert all(abs(arrays["l"]).max() > 0 for arrays in gradient.values())
    assert memory is None or memory > 0
