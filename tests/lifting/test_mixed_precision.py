"""Half-precision models: the types stay the model's, and ΔW loses no more than it must."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lora_jax as lora
from tests.lifting import checks
from tests.lifting.cases.case import Case, inputs, weights

BF16 = jnp.bfloat16
ROUNDING = 2.0**-8  # half a unit in the last place of bf16


def operands_cast_to_bf16(params: Any, x: Any) -> Any:
    return jnp.tanh(x.astype(BF16) @ params["w"].astype(BF16)).astype(jnp.float32)


def fp32_accumulation(params: Any, x: Any) -> Any:
    x, w = x.astype(BF16), params["w"].astype(BF16)
    return lax.dot_general(x, w, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def everything_in_bf16(params: Any, x: Any) -> Any:
    return jnp.tanh(x.astype(BF16) @ params["w"].astype(BF16))


MODELS = {fn.__name__: fn for fn in (operands_cast_to_bf16, fp32_accumulation, everything_in_bf16)}
every_model = pytest.mark.parametrize("name", MODELS)


def lifted_case(apply: Any, dtype: Any = jnp.float32) -> tuple[Case, Any, Any]:
    params = {"w": weights(w=(64, 48))["w"].astype(dtype)}
    case = Case(apply, params, (inputs(40, 64),), targets=("w",))
    lifted = checks.lift(case, strict=True)
    return case, lifted, checks.trained_factors(lifted, params)


def exact(case: Case, factors: Any) -> np.ndarray:
    """The product x (W + ΔW) in double precision."""
    x, w = (np.asarray(leaf, np.float64) for leaf in (case.args[0], case.params["w"]))
    a, b = (np.asarray(factors["w"][name], np.float64) for name in "ab")
    return x @ (w + 1.5 * a @ b)


@every_model
@pytest.mark.parametrize("base", [jnp.float32, BF16], ids=["fp32 base", "bf16 base"])
def test_it_rounds_no_worse_than_the_model_on_dense_weights(name, base):
    case, lifted, factors = lifted_case(MODELS[name], base)
    expected = exact(case, factors)
    expected = expected if name == "fp32_accumulation" else np.tanh(expected)

    def error(outputs: Any) -> float:
        return float(np.linalg.norm(np.asarray(outputs, np.float64) - expected))

    actual = error(lifted(case.params, factors, *case.args))
    dense = error(case.apply(lifted.merge(case.params, factors), *case.args))
    assert actual <= dense + ROUNDING * np.linalg.norm(expected)


@every_model
def test_outputs_have_the_type_that_the_model_gives_them(name):
    case, lifted, factors = lifted_case(MODELS[name])
    base = case.apply(case.params, *case.args)
    assert lifted(case.params, factors, *case.args).dtype == base.dtype


@every_model
def test_gradients_have_the_type_of_the_factors(name):
    case, lifted, factors = lifted_case(MODELS[name], BF16)

    def loss(factors: Any) -> Any:
        return checks.scalar(lifted(case.params, factors, *case.args).astype(jnp.float32))

    gradient = jax.grad(loss)(factors)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}


def test_an_update_too_small_for_a_bf16_weight_is_not_lost():
    """Added to a bf16 W it would vanish in rounding; beside W it does not."""
    case, lifted, factors = lifted_case(fp32_accumulation, BF16)
    tiny = jax.tree.map(lambda leaf: 0.03 * leaf, factors)
    merged = lifted.merge(case.params, tiny)["w"]
    assert np.mean(merged == case.params["w"]) > 0.9
    change = lifted(case.params, tiny, *case.args) - case.apply(case.params, *case.args)
    expected = exact(case, tiny) - exact(case, jax.tree.map(jnp.zeros_like, tiny))
    assert np.linalg.norm(change - expected) < 0.02 * np.linalg.norm(expected)


def test_factors_may_be_bf16_themselves():
    params = weights(w=(64, 48))
    x = inputs(40, 64)
    lifted = lora.lift(
        lambda params, x: x @ params["w"],
        params,
        x,
        targets=("w",),
        method=lora.LoRA(rank=2, alpha=3.0, dtype=BF16),
    )
    factors = checks.trained_factors(lifted, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(factors)} == {jnp.dtype(BF16)}
    outputs = lifted(params, factors, x)
    assert outputs.dtype == jnp.float32
    expected = exact(Case(lambda: None, params, (x,), ()), factors)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
