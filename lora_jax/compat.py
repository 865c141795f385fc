"""The only file that knows how JAX versions differ (0.10 and newer).

Everything here reads a jaxpr or re-emits an equation through `jax.extend.core` and public
functions; the rest of the package never looks at a version.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jex

# `pjit` became `jit` in 0.7; the others are calls without semantics of their own.
JIT_PRIMITIVES = ("jit", "pjit", "closed_call", "core_call")
# `checkpoint` has been bound under three names.
REMAT_PRIMITIVES = ("checkpoint", "remat", "remat2")
# Functions with a derivative of their own.
CUSTOM_PRIMITIVES = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")


def open_jaxpr(jaxpr: Any) -> tuple[jex.Jaxpr, Sequence[Any]]:
    """The open jaxpr and its constants, of a `Jaxpr` or a `ClosedJaxpr`.

    Since 0.12 the two are one class; before, an equation holds either.
    """
    if hasattr(jaxpr, "jaxpr"):
        return jaxpr.jaxpr, jaxpr.consts
    return jaxpr, ()


def sole_equation(eqn: jex.JaxprEqn) -> tuple[jex.JaxprEqn, list[int]] | None:
    """The one equation that a function with a derivative of its own consists of, else None.

    With it comes the place that each of its operands has among those of the function.
    """
    if eqn.primitive.name not in CUSTOM_PRIMITIVES:
        return None
    body, consts = open_jaxpr(eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr")))
    if consts or len(body.eqns) != 1 or list(body.eqns[0].outvars) != list(body.outvars):
        return None
    (only,) = body.eqns
    places: dict[Any, int] = {var: place for place, var in enumerate(body.invars)}
    if any(isinstance(var, jex.Literal) for var in only.invars) or len(only.invars) != len(places):
        return None
    order = [places[var] for var in only.invars]
    return (only, order) if sorted(order) == list(range(len(order))) else None


def scan_arity(params: dict[str, Any]) -> tuple[int, int]:
    """How many operands of a `scan` equation are constants, and how many are carried."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # since 0.12
    return len(consts), len(carry)


def shard_map_axes(params: dict[str, Any]) -> set[str]:
    """The mesh axes a `shard_map` equation makes manual."""
    return set(params.get("newly_manual_axes", params.get("manual_axes", ())))


def equation_context(eqn: jex.JaxprEqn) -> contextlib.AbstractContextManager[Any]:
    """The ambient context (mesh, compute type, PRNG settings) an equation was traced in."""
    manager = getattr(getattr(eqn, "ctx", None), "manager", None)
    return manager if manager is not None else contextlib.nullcontext()


def evaluate(eqns: Sequence[jex.JaxprEqn], env: dict[Any, Any], outvars: Sequence[Any]) -> list:
    """Evaluates equations with JAX's own evaluator and returns the values of `outvars`.

    Packing them into a jaxpr keeps custom derivative rules, contexts and name stacks.
    """
    defined: set[Any] = set()
    free: dict[Any, None] = {}
    for eqn in eqns:
        for var in eqn.invars:
            if not isinstance(var, jex.Literal) and var not in defined:
                free[var] = None
        defined.update(eqn.outvars)
    effects: frozenset = frozenset().union(*(eqn.effects for eqn in eqns))
    jaxpr = _empty_jaxpr().replace(
        invars=list(free), outvars=list(outvars), eqns=list(eqns), effects=effects
    )
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, ()))(*(env[var] for var in free))


@functools.cache
def _empty_jaxpr() -> jex.Jaxpr:
    """A jaxpr to start from: one made by hand would lack the debug information JAX asks for."""
    return open_jaxpr(jax.make_jaxpr(lambda: ())())[0]


def bind_like(eqn: jex.JaxprEqn, array: jax.Array) -> jax.Array:
    """Binds a unary, shape-agnostic primitive on another array than the one it was traced on."""
    out = eqn.primitive.bind(array, **eqn.params)
    return out[0] if eqn.primitive.multiple_results else out
