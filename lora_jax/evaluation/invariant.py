"""Computing what every round of a loop would compute anew, once and before it."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.extend.core as jex

from lora_jax import compat


def hoist(step: Callable[[Any, Any], Any], params: Any, state: Any) -> Callable[[Any], Any]:
    """Binds a step of a loop to its params, and takes their slices here.

    XLA leaves a slice in the loop. On CPU it then copies it in every round: for a stack of layers
    that is the whole model, and three times the traffic that reading it takes.

    Args:
        step: `step(params, state)`; it is traced once.
        params: what stays the same in all rounds.
        state: what does not; only its shapes and types count here.

    Returns:
        The step as a function of the state. What it computes of the params alone has been computed,
        unless that takes more memory than what it is computed of, as dequantised weights would.
    """
    traced, shapes = jax.make_jaxpr(step, return_shape=True)(params, state)
    jaxpr, consts = compat.open_jaxpr(traced)
    leaves, tree = jax.tree.leaves(params), jax.tree.structure(shapes)
    known = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= zip(jaxpr.invars[: len(leaves)], leaves, strict=True)
    left = []
    for eqn in jaxpr.eqns:
        operands = [var for var in eqn.invars if not isinstance(var, jex.Literal)]
        fixed = bool(operands) and all(var in known for var in operands)
        if fixed and not eqn.effects and _bytes(eqn.outvars) <= _bytes(operands):
            values = compat.evaluate([eqn], known, eqn.outvars)
            known |= zip(eqn.outvars, values, strict=True)
        else:
            left.append(eqn)

    computed = [var for eqn in left for var in eqn.outvars]

    def bound(state: Any) -> Any:
        given = dict(zip(jaxpr.invars[len(leaves) :], jax.tree.leaves(state), strict=True))
        env = known | given
        env |= zip(computed, compat.evaluate(left, env, computed), strict=True)
        outs = [v.val if isinstance(v, jex.Literal) else env[v] for v in jaxpr.outvars]
        return jax.tree.unflatten(tree, outs)

    return bound


def _bytes(values: Iterable[Any]) -> int:
    return sum(value.aval.size * value.aval.dtype.itemsize for value in values)
