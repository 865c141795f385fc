"""Every model case: the lifted model is the model on W + ΔW, and only what must falls back."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.lifting import checks
from tests.lifting.cases.all import ALL, FALLING_BACK, LAZY
from tests.lifting.cases.case import Case

every_case = pytest.mark.parametrize("name", ALL)
every_lazy_case = pytest.mark.parametrize("name", LAZY)
every_case_that_falls_back = pytest.mark.parametrize("name", FALLING_BACK)

build = functools.cache(lambda name: ALL[name]())


@functools.cache
def lift(name: str) -> tuple[Case, Any, Any]:
    """A case, its lifted function and factors, made once for all the tests that look at it."""
    case = build(name)
    lifted = lift_case(case)
    return case, lifted, checks.trained_factors(lifted, case.params)


def lift_case(case: Case) -> Any:
    """Lifts strictly where the case must be lazy throughout, and expects a report elsewhere."""
    if not case.fallbacks:
        return checks.lift(case, strict=True)
    with pytest.warns(UserWarning, match="dense W"):
        return checks.lift(case)


@functools.cache
def compare(name: str) -> tuple[checks.Outcome, checks.Outcome]:
    """The outcome of the lifted model, and that of the model on dense weights."""
    case, lifted, factors = lift(name)
    return checks.lifted_and_dense(lifted, case, factors)


@every_case
def test_outputs_and_gradients_equal_those_of_the_dense_weights(name):
    actual, expected = compare(name)
    assert checks.relative_error(actual.outputs, expected.outputs) < 1e-5
    assert checks.relative_error(actual.derivatives, expected.derivatives) < 1e-5


@every_case
def test_they_are_equal_to_twelve_digits_in_double_precision(name):
    with jax.enable_x64(True):
        case = ALL[name]()
        params, args = checks.in_double_precision((case.params, case.args))
        case = case._replace(params=params, args=args)
        lifted = lift_case(case)
        factors = checks.in_double_precision(checks.trained_factors(lifted, params))
        actual, expected = checks.lifted_and_dense(lifted, case, factors)
        assert {leaf.dtype for leaf in jax.tree.leaves(expected)} == {jnp.dtype(jnp.float64)}
        assert checks.relative_error(actual.outputs, expected.outputs) < 1e-12
        assert checks.relative_error(actual.derivatives, expected.derivatives) < 1e-12


@every_case
def test_outside_jit_the_outputs_are_the_same_and_not_those_of_the_base(name):
    case, lifted, factors = lift(name)
    eager = lifted(case.params, factors, *case.args)
    assert checks.relative_error(eager, compare(name)[1].outputs) < 1e-5
    assert checks.relative_error(eager, case.apply(case.params, *case.args)) > 1e-3


@every_case
def test_merging_adds_the_product_of_the_factors_and_unmerging_takes_it_away(name):
    case, lifted, factors = lift(name)
    merged = lifted.merge(case.params, factors)
    expected = checks.merged_by_numpy(lifted, case.params, factors, scaling=3.0 / 2)
    assert len(expected) == len(lifted.sites) > 0
    arrays = by_path(merged)
    for path, value in expected.items():
        np.testing.assert_allclose(arrays[path], value, rtol=1e-6, atol=1e-6)
    for path, value in by_path(case.params).items():
        if path not in expected:
            np.testing.assert_array_equal(arrays[path], value)
    assert checks.relative_error(lifted.unmerge(merged, factors), case.params) < 1e-6


def by_path(params: Any) -> dict[str, jax.Array]:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {checks.path_name(path): leaf for path, leaf in leaves}


@every_lazy_case
def test_abstract_params_and_arguments_find_the_same_sites(name):
    case, lifted, _ = lift(name)
    params, args = jax.eval_shape(lambda: (case.params, case.args))
    from_shapes = checks.lift(case._replace(params=params, args=args), strict=True)
    assert from_shapes.sites == lifted.sites
    assert str(from_shapes) == str(lifted)


@every_case_that_falls_back
def test_exactly_the_expected_uses_fall_back(name):
    case, lifted, _ = lift(name)
    assert fallbacks(lifted) == case.fallbacks


def fallbacks(lifted: Any) -> set[tuple[str, str]]:
    """(weight, primitive) of every use that gets the dense weight."""
    return {(site.path, primitive) for site in lifted.sites for primitive, _ in site.fallbacks}


@every_case_that_falls_back
def test_each_fallback_is_reported_once_by_weight_and_primitive(name):
    case = build(name)
    with warnings.catch_warnings(record=True) as reports:
        warnings.simplefilter("always")
        lifted = checks.lift(case)
        factors = lifted.init(jax.random.key(0), case.params)
        jax.eval_shape(lifted, case.params, factors, *case.args)
        jax.eval_shape(lifted, case.params, factors, *case.args)
    sentences = [str(report.message) for report in reports]
    assert len(sentences) == len(set(sentences))
    for path, primitive in case.fallbacks:
        assert any(repr(path) in text and repr(primitive) in text for text in sentences)


@every_case_that_falls_back
def test_strict_lifting_refuses_a_fallback_and_names_weight_and_primitive(name):
    case = build(name)
    with pytest.raises(ValueError) as refusal:
        checks.lift(case, strict=True)
    sentence = str(refusal.value)
    for path, primitive in case.fallbacks:
        assert f"{path!r} reaches {primitive!r}" in sentence
