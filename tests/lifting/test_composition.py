"""A lifted function is a JAX function: every transformation of JAX applies to it, and within it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lora_jax as lora
from tests.lifting import checks
from tests.lifting.cases.all import ALL
from tests.lifting.cases.case import Case, inputs, weights

FRAMEWORKS = {
    "NNX": "nnx_scan",
    "Linen": "linen_dense_general",
    "Equinox": "equinox_mlp",
    "Haiku": "haiku_mlp",
    "plain": "plain_einsums",
}
every_framework = pytest.mark.parametrize("framework", FRAMEWORKS)


@functools.cache
def lifted_model(framework: str) -> tuple[Case, Any, Any, Any]:
    """A case, lifted, with two adapters."""
    case = ALL[FRAMEWORKS[framework]]()
    lifted = checks.lift(case, strict=True)
    adapters = [checks.trained_factors(lifted, case.params, seed) for seed in (1, 2)]
    return case, lifted, *adapters


def assert_close(actual: Any, expected: Any) -> None:
    assert checks.relative_error(actual, expected) < 1e-5


# ---------------------------------------------------------------------------------------------
# Transformations of a lifted function, whatever the framework


@every_framework
def test_jit_takes_params_and_factors_as_arguments(framework):
    case, lifted, first, second = lifted_model(framework)
    run = jax.jit(lifted)
    for factors in (first, second):
        merged = lifted.merge(case.params, factors)
        assert_close(run(case.params, factors, *case.args), case.apply(merged, *case.args))


@every_framework
def test_grad_through_the_base_weights_is_that_of_the_merged_model(framework):
    """Full fine-tuning beside an adapter: dL/dW is the gradient at W + ΔW."""
    case, lifted, factors, _ = lifted_model(framework)

    def loss(params):
        return checks.scalar(lifted(params, factors, *case.args))

    def merged_loss(merged):
        return checks.scalar(case.apply(merged, *case.args))

    merged = lifted.merge(case.params, factors)
    assert_close(checks.jit(jax.grad(loss))(case.params), checks.jit(jax.grad(merged_loss))(merged))


@every_framework
def test_vmap_over_stacked_factors_runs_every_adapter(framework):
    case, lifted, *adapters = lifted_model(framework)
    run = jax.vmap(lambda factors: lifted(case.params, factors, *case.args))
    each = lora.unstack(checks.jit(run)(lora.stack(adapters)))
    for outputs, factors in zip(each, adapters, strict=True):
        assert_close(outputs, lifted(case.params, factors, *case.args))


@every_framework
def test_forward_derivatives_equal_backward_ones(framework):
    case, lifted, factors, direction = lifted_model(framework)

    def loss(factors):
        return checks.scalar(lifted(case.params, factors, *case.args))

    _, forward = jax.jvp(loss, (factors,), (direction,))
    products = jax.tree.map(lambda g, d: (g * d).sum(), jax.grad(loss)(factors), direction)
    np.testing.assert_allclose(forward, sum(jax.tree.leaves(products)), rtol=1e-4)


@every_framework
def test_checkpoint_leaves_the_gradient_as_it_is(framework):
    case, lifted, factors, _ = lifted_model(framework)

    def loss(model, factors):
        return checks.scalar(model(case.params, factors, *case.args))

    plain = jax.grad(functools.partial(loss, lifted))(factors)
    rematerialised = jax.grad(functools.partial(loss, jax.checkpoint(lifted)))(factors)
    assert_close(rematerialised, plain)


# ---------------------------------------------------------------------------------------------
# Lifted functions inside control flow and inside each other

CHAIN = Case(
    lambda params, x: jnp.tanh(x @ params["w"]), weights(w=(8, 8)), (inputs(5, 8),), targets=("w",)
)


@pytest.fixture(scope="module")
def chain():
    lifted = checks.lift(CHAIN, strict=True)
    return lifted, checks.trained_factors(lifted, CHAIN.params)


def repeated(model, params, x, times):
    for _ in range(times):
        x = model(params, x)
    return x


def test_a_lifted_function_may_be_the_body_of_a_scan(chain):
    lifted, factors = chain
    x = CHAIN.args[0]
    ys = lax.scan(lambda x, _: (lifted(CHAIN.params, factors, x), None), x, length=3)[0]
    assert_close(ys, repeated(CHAIN.apply, lifted.merge(CHAIN.params, factors), x, 3))


def test_a_lifted_function_may_be_the_body_of_a_while_loop(chain):
    lifted, factors = chain

    def body(state):
        i, x = state
        return i + 1, lifted(CHAIN.params, factors, x)

    _, ys = lax.while_loop(lambda state: state[0] < 3, body, (0, CHAIN.args[0]))
    merged = lifted.merge(CHAIN.params, factors)
    assert_close(ys, repeated(CHAIN.apply, merged, CHAIN.args[0], 3))


def test_a_lifted_function_may_be_a_branch_of_a_cond(chain):
    lifted, factors = chain
    x = CHAIN.args[0]
    with_adapter = functools.partial(lifted, CHAIN.params, factors)
    without = functools.partial(CHAIN.apply, CHAIN.params)
    run = jax.jit(lambda use, x: lax.cond(use, with_adapter, without, x))
    assert_close(run(True, x), CHAIN.apply(lifted.merge(CHAIN.params, factors), x))
    assert_close(run(False, x), CHAIN.apply(CHAIN.params, x))


def test_a_lifted_function_may_be_lifted_again(chain):
    """One adapter on another: W + ΔW₁ + ΔW₂, the first frozen."""
    lifted, first = chain
    x = CHAIN.args[0]
    model = lambda params, x: lifted(params, first, x)
    twice = lora.lift(model, CHAIN.params, x, targets=("w",), method=checks.METHOD, strict=True)
    second = checks.trained_factors(twice, CHAIN.params, seed=9)
    merged = lifted.merge(twice.merge(CHAIN.params, second), first)
    assert_close(twice(CHAIN.params, second, x), CHAIN.apply(merged, x))


def test_arguments_may_change_shape_between_calls(chain):
    lifted, factors = chain
    merged = lifted.merge(CHAIN.params, factors)
    for shape in ((1, 8), (7, 8), (2, 3, 8)):
        x = inputs(*shape)
        assert_close(lifted(CHAIN.params, factors, x), CHAIN.apply(merged, x))


def test_keyword_and_static_arguments_reach_the_function():
    def model(params, x, *, scale=1.0, activate=True):
        y = scale * (x @ params["w"])
        return jnp.tanh(y) if activate else y

    params, x = weights(w=(8, 6)), inputs(5, 8)
    lifted = lora.lift(model, params, x, targets=("w",), method=checks.METHOD, activate=False)
    factors = checks.trained_factors(lifted, params)
    merged = lifted.merge(params, factors)
    for keywords in ({}, {"scale": 2.0}, {"scale": 0.5, "activate": False}):
        expected = model(merged, x, **keywords)
        assert_close(lifted(params, factors, x, **keywords), expected)


def test_a_traced_argument_named_rng_of_the_model_is_not_taken_by_dropout():
    """`rng` is the lifted function's own; a model's key goes in positionally."""

    def model(params, x, key):
        return x @ params["w"] + jax.random.normal(key, (6,))

    params, x, key = weights(w=(8, 6)), inputs(5, 8), jax.random.key(0)
    lifted = lora.lift(model, params, x, key, targets=("w",), method=lora.LoRA(rank=2, dropout=0.5))
    factors = checks.trained_factors(lifted, params)
    expected = model(lifted.merge(params, factors), x, key)
    assert_close(lifted(params, factors, x, key), expected)
    dropped = lifted(params, factors, x, key, rng=jax.random.key(1))
    assert checks.relative_error(dropped, expected) > 1e-3


def test_outputs_may_be_any_tree_and_hold_untouched_params():
    def model(params, x):
        return {"y": (x @ params["w"], x), "bias": params["b"], "none": None}

    params, x = weights(w=(8, 6), b=(1, 6)), inputs(5, 8)
    lifted = lora.lift(model, params, x, targets=("w",), method=checks.METHOD, strict=True)
    factors = checks.trained_factors(lifted, params)
    assert_close(lifted(params, factors, x), model(lifted.merge(params, factors), x))


def test_params_may_hold_leaves_that_are_not_arrays():
    params = weights(w=(8, 6)) | {"steps": 2, "name": None}

    def model(params, x):
        return x @ params["w"] * params["steps"]

    lifted = lora.lift(model, params, inputs(5, 8), targets=("w",), method=checks.METHOD)
    factors = checks.trained_factors(lifted, params)
    merged = lifted.merge(params, factors)
    assert_close(lifted(params, factors, inputs(5, 8)), model(merged, inputs(5, 8)))


def test_params_stay_as_they_were():
    case, lifted, factors, _ = lifted_model("plain")
    before = jax.tree.map(np.array, case.params)
    merged = lifted.merge(case.params, factors)
    lifted(case.params, factors, *case.args)
    lifted.unmerge(merged, factors)
    jax.tree.map(np.testing.assert_array_equal, before, case.params)
