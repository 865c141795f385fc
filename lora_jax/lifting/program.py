"""A call of the model as a jaxpr over the array leaves of its params and arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax.lifting.algebra import AdaptedWeight, Delta
from lora_jax.lifting.interpreter import Interpreter, Use
from lora_jax.lifting.packed import abstract, is_packed
from lora_jax.lifting.roles import Weight, weight_from_uses


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced call of `f`, ready to be evaluated with adapted weights among its params."""

    jaxpr: Any
    paths: tuple[str, ...]
    leaves: tuple[Any, ...]  # of params; only arrays and packed weights
    inputs: tuple[Any, ...]  # of args and kwargs; only arrays
    out_tree: Any

    def run(self, interpreter: Interpreter, deltas: Mapping[str, Delta]) -> Any:
        values = [
            _adapted(path, leaf, deltas.get(path, Delta()))
            if path in deltas or is_packed(leaf)
            else leaf
            for path, leaf in zip(self.paths, self.leaves, strict=True)
        ]
        results = interpreter.run_dense(self.jaxpr, [*values, *self.inputs], "return")
        return jax.tree.unflatten(self.out_tree, results)


def _adapted(path: str, leaf: Any, delta: Delta) -> AdaptedWeight:
    origin = tuple(frozenset({(path, axis)}) for axis in range(leaf.ndim))
    return AdaptedWeight(leaf, delta, path, origin)


def trace(f: Callable, params: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Program:
    """Traces ``f(params, *args, **kwargs)`` once; nothing is computed."""
    flat, params_tree = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_packed)
    leaves = [leaf for _, leaf in flat]
    inputs, inputs_tree = jax.tree.flatten((tuple(args), dict(kwargs)))
    call, dynamic = _without_static(f, params_tree, leaves, inputs_tree, inputs)
    jaxpr, shape = jax.make_jaxpr(call, return_shape=True)(list(map(abstract, dynamic)))
    arrays = [(path, leaf) for path, leaf in flat if _is_array(leaf)]
    return Program(
        jaxpr=jaxpr,
        paths=tuple(path_name(path) for path, _ in arrays),
        leaves=tuple(leaf for _, leaf in arrays),
        inputs=tuple(leaf for leaf in inputs if _is_array(leaf)),
        out_tree=jax.tree.structure(shape),
    )


def _without_static(
    f: Callable, params_tree: Any, leaves: list[Any], inputs_tree: Any, inputs: list[Any]
) -> tuple[Callable, list[Any]]:
    """`f` as a function of its array leaves alone; flags and functions are closed over."""
    everything = [*leaves, *inputs]
    dynamic = [leaf for leaf in everything if _is_array(leaf)]

    def call(arrays: list[Any]) -> Any:
        remaining = iter(arrays)
        filled = [next(remaining) if _is_array(leaf) else leaf for leaf in everything]
        params = jax.tree.unflatten(params_tree, filled[: len(leaves)])
        args, kwargs = jax.tree.unflatten(inputs_tree, filled[len(leaves) :])
        return f(params, *args, **kwargs)

    return call, dynamic


def _is_array(leaf: Any) -> bool:
    """Arrays and numbers are traced; a bool (``deterministic=True``) is a static choice."""
    number = isinstance(leaf, int | float | complex) and not isinstance(leaf, bool)
    return number or hasattr(leaf, "shape")


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as ``"layers/q_proj/kernel"``.

    Boxes such as Flax's variables keep their array in an attribute `value`, which is left out.
    """
    boxed = path and path[-1] == jax.tree_util.GetAttrKey("value")
    return jax.tree_util.keystr(path[:-1] if boxed else path, simple=True, separator="/")


def discover(program: Program) -> dict[str, Weight]:
    """The float arrays of a program; of those with two axes or more, the roles of the axes."""
    leaves = {
        path: leaf
        for path, leaf in zip(program.paths, program.leaves, strict=True)
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    candidates = {path: leaf for path, leaf in leaves.items() if leaf.ndim >= 2}
    interpreter = run_abstractly(program, dict.fromkeys(candidates, Delta()), Interpreter(True))
    uses: dict[str, list[Use]] = {path: [] for path in leaves}
    for use in interpreter.uses:
        for path in {path for path, _ in use.contracted | use.batch | use.free}:
            uses[path].append(use)
    return {
        path: weight_from_uses(path, tuple(leaf.shape), leaf.dtype, uses[path])
        for path, leaf in leaves.items()
    }


def run_abstractly(program: Program, deltas: Any, interpreter: Interpreter) -> Interpreter:
    """Runs a program on shapes alone, for what the interpreter sees on the way."""

    def run(leaves: Any, inputs: Any, deltas: Any) -> Any:
        return dataclasses.replace(program, leaves=leaves, inputs=inputs).run(interpreter, deltas)

    jax.eval_shape(run, program.leaves, program.inputs, deltas)
    return interpreter
