"""Control flow: re-emitted through its public functions, with adapted weights inside.

An adapted weight is a pytree, so `jax.checkpoint`, `lax.scan` and the rest carry it by themselves;
the rules say which of its parts a scan slices and what a loop may carry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec, Sharding

from lora_jax import compat
from lora_jax.lifting.algebra import AdaptedWeight, Factor, is_adapted
from lora_jax.lifting.packed import is_packed

if TYPE_CHECKING:
    from lora_jax.lifting.interpreter import Interpreter


def jit(interpreter: Interpreter, eqn: jex.JaxprEqn, operands: list[Any]) -> list[Any]:
    """Inlined; explicit shardings become sharding constraints."""
    params = eqn.params
    operands = _constrained(operands, params.get("in_shardings", ()))
    with jax.named_scope(params.get("name", "jit")):
        results = interpreter.run(params.get("jaxpr", params.get("call_jaxpr")), operands)
    return _constrained(results, params.get("out_shardings", ()))


def _constrained(values: Sequence[Any], shardings: Sequence[Any]) -> list[Any]:
    if not any(isinstance(sharding, Sharding) for sharding in shardings):
        return list(values)
    return [
        _constrain(value, sharding) if isinstance(sharding, Sharding) else value
        for value, sharding in zip(values, shardings, strict=True)
    ]


def _constrain(value: Any, sharding: Sharding) -> Any:
    """On a weight the constraint binds the base; the compiler places the small factors."""
    if is_adapted(value) and is_packed(value.base):
        return value  # its arrays have other shapes: they stay where they are
    if is_adapted(value):
        return dataclasses.replace(value, base=lax.with_sharding_constraint(value.base, sharding))
    return lax.with_sharding_constraint(value, sharding)


def checkpoint(interpreter: Interpreter, eqn: jex.JaxprEqn, operands: list[Any]) -> list[Any]:
    """Rematerialised as the model asked: the factored products are recomputed, not ΔW."""
    params = eqn.params
    body = lambda values: interpreter.run_dense(params["jaxpr"], values, "checkpoint")
    remat = jax.checkpoint(body, prevent_cse=params["prevent_cse"], policy=params["policy"])
    return remat(operands)


# ---------------------------------------------------------------------------------------------
# Loops


def scan(interpreter: Interpreter, eqn: jex.JaxprEqn, operands: list[Any]) -> list[Any]:
    """Slices the factors that hold the scanned axis; the others are constants of the loop."""
    params = eqn.params
    num_consts, num_carry = compat.scan_arity(params)
    body, _ = compat.open_jaxpr(params["jaxpr"])
    closed = operands[:num_consts]
    carried, xs = operands[num_consts : num_consts + num_carry], operands[num_consts + num_carry :]
    loop = _Carry(interpreter, "scan", carried, body.invars[num_consts:], body.outvars)
    xs = [_scannable(interpreter, x) for x in xs]
    scanned = {i: _ScannedWeight(x) for i, x in enumerate(xs) if is_adapted(x)}

    def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        layers = [scanned[i].layer(v) if i in scanned else v for i, v in enumerate(x)]
        results = interpreter.run(params["jaxpr"], [*closed, *loop.full(carry), *layers])
        dense = [interpreter.densify(v, "scan", "returned as a value") for v in results[num_carry:]]
        return loop.updated(results[:num_carry]), dense

    slices = [scanned[i].slices if i in scanned else x for i, x in enumerate(xs)]
    keywords = {
        k: params[k] for k in ("reverse", "unroll", "length", "_split_transpose") if k in params
    }
    carry, ys = lax.scan(step, loop.initial, slices, **keywords)
    return [*loop.full(carry), *ys]


def while_loop(interpreter: Interpreter, eqn: jex.JaxprEqn, operands: list[Any]) -> list[Any]:
    """Weights that the loop reads or hands on unchanged stay factored."""
    params = eqn.params
    num_cond, num_body = params["cond_nconsts"], params["body_nconsts"]
    body, _ = compat.open_jaxpr(params["body_jaxpr"])
    for_cond, for_body = operands[:num_cond], operands[num_cond : num_cond + num_body]
    carried = operands[num_cond + num_body :]
    loop = _Carry(interpreter, "while", carried, body.invars[num_body:], body.outvars)

    def proceed(carry: Sequence[Any]) -> Any:
        return interpreter.run(params["cond_jaxpr"], [*for_cond, *loop.full(carry)])[0]

    def step(carry: Sequence[Any]) -> Sequence[Any]:
        return loop.updated(interpreter.run(params["body_jaxpr"], [*for_body, *loop.full(carry)]))

    return loop.full(lax.while_loop(proceed, step, loop.initial))


class _Carry:
    """What a loop carries. Weights handed on unchanged stay out of it and so stay factored."""

    def __init__(
        self,
        interpreter: Interpreter,
        primitive: str,
        values: Sequence[Any],
        invars: Sequence[Any],
        outvars: Sequence[Any],
    ):
        self._interpreter, self._primitive = interpreter, primitive
        self._unchanged = {
            i: value
            for i, value in enumerate(values)
            if is_adapted(value) and outvars[i] is invars[i]
        }
        self.initial = self.updated(values)

    def full(self, carry: Sequence[Any]) -> list[Any]:
        """The carry with the unchanged weights in their places."""
        return [self._unchanged.get(i, value) for i, value in enumerate(carry)]

    def updated(self, values: Sequence[Any]) -> list[Any]:
        """The carry without the unchanged weights; any other weight is made dense."""
        why = "a loop carry that is updated"
        return [
            None if i in self._unchanged else self._interpreter.densify(value, self._primitive, why)
            for i, value in enumerate(values)
        ]


def _scannable(interpreter: Interpreter, value: Any) -> Any:
    """A packed weight can be sliced where every array of it starts with the scanned axis."""
    if is_adapted(value) and is_packed(value.base) and value.base.leading < 1:
        return interpreter.unpack(value, "scan", "packed along the scanned axis, or a view of it")
    return value


class _ScannedWeight:
    """A stacked weight that a scan slices along axis 0."""

    def __init__(self, weight: AdaptedWeight):
        self._weight = weight
        factors, self._tree = jax.tree.flatten(weight.delta, is_leaf=_is_factor)
        self._factors: list[Factor] = factors
        sliced = [
            jnp.moveaxis(factor.array, factor.axes.index(0), 0)
            for factor in factors
            if factor.has(0)
        ]
        self.slices = (weight.base, sliced)

    def layer(self, values: tuple[Any, list[Any]]) -> AdaptedWeight:
        """The weight of one layer, from its slices."""
        base, sliced = values
        arrays = iter(sliced)
        factors = [
            factor.at_layer(next(arrays) if factor.has(0) else factor.array)
            for factor in self._factors
        ]
        weight = self._weight
        return dataclasses.replace(
            weight,
            base=base,
            delta=jax.tree.unflatten(self._tree, factors),
            origin=weight.origin[1:],
            scanned=weight.scanned | weight.origin[0],
        )


def _is_factor(node: Any) -> bool:
    return isinstance(node, Factor)


# ---------------------------------------------------------------------------------------------
# Branches and manual sharding


def cond(interpreter: Interpreter, eqn: jex.JaxprEqn, operands: list[Any]) -> list[Any]:
    """Each branch is evaluated with the weights it is given."""
    index, *rest = operands

    def branch(jaxpr: Any) -> Callable[[list[Any]], list[Any]]:
        return lambda values: interpreter.run_dense(jaxpr, values, "cond")

    return lax.switch(index, [branch(jaxpr) for jaxpr in eqn.params["branches"]], rest)


def shard_map(interpreter: Interpreter, eqn: jex.JaxprEqn, operands: list[Any]) -> list[Any]:
    """Each factor enters with the specs of the weight axes it holds."""
    params = eqn.params
    why = "packed weights are not split by hand"
    operands = [interpreter.unpack(value, "shard_map", why) for value in operands]
    body = lambda *values: interpreter.run_dense(params["jaxpr"], values, "shard_map")
    specs = tuple(
        _weight_specs(value, spec) if is_adapted(value) else spec
        for value, spec in zip(operands, params["in_specs"], strict=True)
    )
    mapped = jax.shard_map(
        body,
        mesh=params["mesh"],
        in_specs=specs,
        out_specs=list(params["out_specs"]),
        axis_names=compat.shard_map_axes(params),
        check_vma=params["check_vma"],
    )
    return mapped(*operands)


def _weight_specs(weight: AdaptedWeight, spec: PartitionSpec) -> AdaptedWeight:
    """A weight's tree of PartitionSpecs."""
    entries = (*spec, *(None,) * (weight.ndim - len(spec)))

    def factor_spec(factor: Factor) -> Factor:
        axes = [entries[axis] if isinstance(axis, int) else None for axis in factor.axes]
        return factor.with_array(PartitionSpec(*axes))

    return dataclasses.replace(
        weight, base=PartitionSpec(*entries), delta=weight.delta.map(factor_spec)
    )


RULES: dict[str, Callable[..., list[Any]]] = {
    **dict.fromkeys(compat.JIT_PRIMITIVES, jit),
    **dict.fromkeys(compat.REMAT_PRIMITIVES, checkpoint),
    "cond": cond,
    "scan": scan,
    "shard_map": shard_map,
    "while": while_loop,
}
