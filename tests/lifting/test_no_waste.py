"""The compiled program of a lifted model is that of the model with LoRA written into it.

Measured on a scanned, rematerialised transformer of twelve layers, and on an unrolled one.
"""

from __future__ import annotations

import collections
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import lora_jax as lora
from scripts import bench_lift
from tests.lifting import programs
from tests.lifting.checks import QUICK

# No other array has the shape of a weight: sizes are chosen apart.
SMALL = {"dim": 48, "hidden": 80, "heads": 2, "vocabulary": 56, "batch": 2, "length": 12, "rank": 4}
SCANNED = bench_lift.Shape(layers=12, scan=True, remat=True, **SMALL)
UNROLLED = bench_lift.Shape(layers=3, scan=False, remat=True, **SMALL)


class Compiled(NamedTuple):
    """The gradients of one model, by contender, compiled, and what they were compiled for."""

    gradients: dict[str, Any]
    programs: dict[str, Any]
    jaxprs: dict[str, Any]
    arguments: tuple[Any, ...]
    weights: set[tuple[int, ...]]


@pytest.fixture(scope="module", params=[SCANNED, UNROLLED], ids=["scanned", "unrolled"])
def compiled(request):
    shape = request.param
    params = bench_lift.init(jax.random.key(0), shape)
    ids = jax.random.randint(jax.random.key(1), (shape.batch, shape.length), 0, shape.vocabulary)
    lifted = bench_lift.lift(params, ids, shape)
    factors = jax.tree.map(lambda leaf: leaf + 0.1, lifted.init(jax.random.key(2), params))
    gradients = bench_lift.contenders(lifted, shape)
    arguments = (factors, params, ids)
    lowered = {
        name: jax.jit(gradients[name]).trace(*arguments)
        for name in ("by hand", "lifted", "dense W + ΔW")
    }
    layer = {site.shape[1:] for site in lifted.sites}
    return Compiled(
        gradients=gradients,
        programs={name: traced.lower().compile() for name, traced in lowered.items()},
        jaxprs={name: traced.jaxpr for name, traced in lowered.items()},
        arguments=arguments,
        weights={(*lead, *size) for size in layer for lead in ((), (1,), (shape.layers,))},
    )


@jax.enable_x64(True)
def test_gradients_are_those_of_lora_written_by_hand(compiled):
    # In float64, where only a formula can differ, and not the order of sums.
    factors, params, ids = compiled.arguments
    factors, params = jax.tree.map(lambda x: x.astype("float64"), (factors, params))
    actual, expected = (
        jax.jit(compiled.gradients[name], compiler_options=QUICK)(factors, params, ids)
        for name in ("lifted", "by hand")
    )
    for path, wanted in expected.items():
        for name, value in wanted.items():
            error = np.linalg.norm(actual[path][name] - value) / np.linalg.norm(value)
            assert error < 1e-12, (path, name)


def test_no_product_and_no_gradient_has_the_shape_of_a_weight(compiled):
    """In the jaxpr: frozen weights are sliced, never multiplied into or added up."""
    made = collections.Counter(
        equation.primitive.name
        for equation in programs.equations(compiled.jaxprs["lifted"])
        if any(getattr(var.aval, "shape", None) in compiled.weights for var in equation.outvars)
    )
    assert set(made) <= {"slice", "squeeze"}


def test_the_compiled_program_makes_no_product_and_no_sum_of_the_shape_of_a_weight(compiled):
    made = {
        name: programs.made_with_shapes(program, compiled.weights)
        for name, program in compiled.programs.items()
    }
    assert made["dense W + ΔW"]["dot"] > 0, "the search must find the products it looks for"
    assert made["lifted"]["dot"] == made["lifted"]["add"] == 0


def test_it_holds_the_instructions_of_lora_written_by_hand_one_for_one(compiled):
    lifted, by_hand = compiled.programs["lifted"], compiled.programs["by hand"]
    assert programs.instructions(lifted) == programs.instructions(by_hand)


def test_it_takes_the_operations_of_lora_written_by_hand(compiled):
    flops = {name: program.cost_analysis()["flops"] for name, program in compiled.programs.items()}
    assert flops["lifted"] == pytest.approx(flops["by hand"], rel=0.01)
    assert flops["dense W + ΔW"] > 1.2 * flops["lifted"]


def test_it_takes_no_more_memory_than_lora_written_by_hand(compiled):
    memory = {name: program.memory_analysis() for name, program in compiled.programs.items()}
    lifted, by_hand = memory["lifted"], memory["by hand"]
    assert lifted.temp_size_in_bytes <= by_hand.temp_size_in_bytes
    assert lifted.output_size_in_bytes == by_hand.output_size_in_bytes
    assert lifted.argument_size_in_bytes == by_hand.argument_size_in_bytes


def test_the_gradient_holds_factors_alone(compiled):
    gradient = compiled.programs["lifted"](*compiled.arguments)
    factors = compiled.arguments[0]
    assert jax.tree.structure(gradient) == jax.tree.structure(factors)
    assert lora.count_parameters(gradient) == lora.count_parameters(factors)


@pytest.mark.parametrize("adapted", [("q",), ("q", "v")], ids=" and ".join)
def test_weights_that_are_not_adapted_add_no_operations(adapted):
    """Each adapted weight costs its two thin products; the others cost what they did."""
    shape = UNROLLED
    params = bench_lift.init(jax.random.key(0), shape)
    ids = jax.numpy.zeros((shape.batch, shape.length), int)

    def flops(f: Any, *arguments: Any) -> float:
        return jax.jit(f).lower(*arguments).compile().cost_analysis()["flops"]

    def model(params: Any, ids: Any) -> Any:
        return bench_lift.apply(params, ids, shape)

    lifted = lora.lift(
        model, params, ids, targets=tuple(adapted), method=lora.LoRA(rank=shape.rank)
    )
    factors = lifted.init(jax.random.key(2), params)
    extra = flops(lifted, params, factors, ids) - flops(model, params, ids)
    tokens = shape.batch * shape.length
    thin_products = 2 * tokens * shape.rank * (shape.dim + shape.dim)
    scale_and_add = tokens * (shape.rank + shape.dim)
    assert extra == pytest.approx(
        len(adapted) * shape.layers * (thin_products + scale_and_add), rel=0.1
    )
