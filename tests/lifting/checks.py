"""What the lifting tests share: lifting a case with non-trivial factors, and comparing trees."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lora_jax as lora
from tests.lifting.cases.case import Case

METHOD = lora.LoRA(rank=2, alpha=3.0)
# Tiny programs are compiled once and run once: optimising their machine code is wasted time.
QUICK = {"xla_backend_optimization_level": 0}


def jit(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` for programs that run once."""
    return jax.jit(fn, compiler_options=QUICK)


def lift(case: Case, **keywords: Any) -> Any:
    """The case's model, lifted."""
    keywords = {"method": METHOD, "targets": case.targets} | keywords
    return lora.lift(case.apply, case.params, *case.args, **keywords)


def trained_factors(lifted: Any, params: Any, seed: int = 5) -> Any:
    """Factors as after training: with B = 0 the gradient of A would be trivially zero."""
    factors = lifted.init(jax.random.key(seed), params)
    leaves, tree = jax.tree.flatten(factors)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    moved = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape, leaf.dtype)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


def in_double_precision(tree: Any) -> Any:
    """The tree with every float array in double precision (inside ``jax.enable_x64(True)``)."""

    def widen(leaf: Any) -> Any:
        floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(jnp.float64) if floating else leaf

    return jax.tree.map(widen, tree)


def relative_error(actual: Any, expected: Any) -> float:
    """The largest over leaves of ‖actual − expected‖ / ‖expected‖; absolute where expected is 0."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return max(_leaf_error(a, e) for a, e in pairs)


def relative_error_of_whole(actual: Any, expected: Any) -> float:
    """‖actual − expected‖ / ‖expected‖ of all leaves as one vector.

    For random programs, where some gradients are zero but for rounding.
    """
    flat = [
        np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
        for tree in (actual, expected)
    ]
    return _leaf_error(*flat)


def _leaf_error(actual: Any, expected: Any) -> float:
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    assert actual.dtype == expected.dtype, (actual.dtype, expected.dtype)
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert np.isfinite(expected).all()
    scale = np.linalg.norm(expected)
    error = float(np.linalg.norm(actual - expected))
    return error / scale if scale > 0 else error


def scalar(outputs: Any) -> jax.Array:
    """A sum of all entries of the outputs, each with a weight of its own.

    Linear, so that the rounding of the outputs is not magnified in the gradient.
    """
    leaves = jax.tree.leaves(outputs)
    return sum((leaf.ravel() * jnp.cos(jnp.arange(leaf.size))).sum() for leaf in leaves)


def differentiable(tree: Any) -> list[int]:
    """The positions among the leaves of the arrays that have gradients."""
    leaves = jax.tree.leaves(tree)
    return [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]


class Outcome(NamedTuple):
    """What is compared: the outputs, and the derivatives by factors and by float arguments."""

    outputs: Any
    derivatives: Any


def evaluate(model: Callable[..., Any], factors: Any, args: tuple[Any, ...], case: Case) -> Outcome:
    """Outputs of ``model(factors, *args)`` and its gradient, or its tangent if only that exists."""
    leaves, tree = jax.tree.flatten(args)
    moving = differentiable(args)

    def of(factors: Any, floats: list[Any]) -> Any:
        filled = list(leaves)
        for i, value in zip(moving, floats, strict=True):
            filled[i] = value
        return model(factors, *jax.tree.unflatten(tree, filled))

    point = (factors, [leaves[i] for i in moving])
    if not case.reverse_mode:
        direction = jax.tree.map(jnp.ones_like, point)
        return Outcome(*jax.jvp(of, point, direction))

    def loss(point: Any) -> tuple[jax.Array, Any]:
        outputs = of(*point)
        return scalar(outputs), outputs

    gradient, outputs = jax.grad(loss, has_aux=True)(point)
    return Outcome(outputs, gradient)


def lifted_and_dense(lifted: Any, case: Case, factors: Any) -> tuple[Outcome, Outcome]:
    """The outcome of the lifted model and that of the model on merged params, in one program."""

    def both(params: Any, factors: Any, args: tuple[Any, ...]) -> tuple[Outcome, Outcome]:
        def merged(factors, *args):
            return case.apply(lifted.merge(params, factors), *args)

        def factored(factors, *args):
            return lifted(params, factors, *args)

        return (
            evaluate(factored, factors, args, case),
            evaluate(merged, factors, args, case),
        )

    return jit(both)(case.params, factors, case.args)


def path_name(path: Any) -> str:
    """ "layers/q/kernel", without the attribute in which NNX boxes an array."""
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


def merged_by_numpy(
    lifted: Any, params: Any, factors: Any, scaling: float
) -> dict[str, np.ndarray]:
    """W + scaling · A·B for every site, from the roles of its axes alone."""
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    arrays = {path_name(path): leaf for path, leaf in paths}
    merged = {}
    for site in lifted.sites:
        batch, ins, outs = (
            [site.shape[i] for i in axes] for axes in (site.batch, site.ins, site.outs)
        )
        a = np.asarray(factors[site.path]["a"], np.float64)
        b = np.asarray(factors[site.path]["b"], np.float64)
        rank = a.shape[-1]
        a = a.reshape(math.prod(batch), math.prod(ins), rank)
        b = b.reshape(math.prod(batch), rank, math.prod(outs))
        delta = (scaling * a @ b).reshape(*batch, *ins, *outs)
        order = np.argsort((*site.batch, *site.ins, *site.outs))
        merged[site.path] = np.asarray(arrays[site.path], np.float64) + delta.transpose(order)
    return merged
