"""Evaluates a jaxpr with adapted weights in its environment.

Equations that touch no adapted weight are handed back to JAX in bulk. The others go, in this order,
to a control-flow rule, a use, or a view; where no rule fits, the dense W + ΔW goes in and the
fallback is written down.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax

from lora_jax import compat
from lora_jax.lifting import control, views
from lora_jax.lifting.algebra import AdaptedWeight, NoRule, Origin, is_adapted, merged_origin
from lora_jax.lifting.dense import dense
from lora_jax.lifting.packed import bind, consume, is_packed, unpacked, view
from lora_jax.lifting.uses import PRODUCTS, USES


@dataclasses.dataclass(frozen=True)
class Use:
    """How one equation used axes of the original weights."""

    primitive: str
    contracted: Origin
    batch: Origin
    free: Origin
    windows: Origin = frozenset()


@dataclasses.dataclass(frozen=True)
class Fallback:
    """A place where the dense W + ΔW was used."""

    path: str
    primitive: str
    why: str


class Interpreter:
    """One evaluation of a jaxpr, and what was seen on the way.

    Attributes:
      discovering: roles are being discovered, so every weight is adapted, by nothing.
      uses: in the order of the program.
      fallbacks: without repeats, in the order of the program.
    """

    def __init__(self, discovering: bool = False):
        self.discovering = discovering
        self.uses: list[Use] = []
        self.fallbacks: dict[Fallback, None] = {}
        self._dropout_uses: collections.Counter[str] = collections.Counter()

    def run(self, jaxpr: Any, operands: Sequence[Any]) -> list[Any]:
        """Evaluates a (closed) jaxpr; operands and results may be adapted weights."""
        body, consts = compat.open_jaxpr(jaxpr)
        env = dict(zip((*body.constvars, *body.invars), (*consts, *operands), strict=True))
        read = lambda var: var.val if isinstance(var, jex.Literal) else env[var]
        last_use = _last_uses(body)
        plain: list[jex.JaxprEqn] = []

        def flush(position: int) -> None:
            """Evaluates the plain equations so far; keeps what `position` and later ones read."""
            defined = [var for eqn in plain for var in eqn.outvars]
            wanted = [var for var in defined if last_use.get(var, -1) >= position]
            if plain:
                env.update(zip(wanted, compat.evaluate(plain, env, wanted), strict=True))
            plain.clear()

        adapted = {var for var, value in env.items() if is_adapted(value)}
        for position, eqn in enumerate(body.eqns):
            if not any(var in adapted for var in eqn.invars if not isinstance(var, jex.Literal)):
                plain.append(eqn)
                continue
            flush(position)
            results = self._equation(eqn, [read(var) for var in eqn.invars])
            env.update(zip(eqn.outvars, results, strict=True))
            adapted |= {v for v, r in zip(eqn.outvars, results, strict=True) if is_adapted(r)}
        flush(len(body.eqns))
        return [read(var) for var in body.outvars]

    def run_dense(self, jaxpr: Any, operands: Sequence[Any], primitive: str) -> list[Any]:
        """As `run`, for a computation whose results must be arrays."""
        results = self.run(jaxpr, operands)
        return [self.densify(value, primitive, "returned as a value") for value in results]

    def densify(self, value: Any, primitive: str, why: str) -> Any:
        """The dense W + ΔW of an adapted weight, reported; any other value as it is."""
        if not is_adapted(value):
            return value
        if value.looked_up:
            free = merged_origin(value.origin) - value.picked - value.scanned
            self.uses.append(Use("gather", value.picked - value.scanned, value.scanned, free))
        elif not (_costs_nothing_dense(value) or _is_vector(value)):
            self.fallbacks[Fallback(value.path, primitive, why)] = None
        return dense(value)

    def unpack(self, value: Any, primitive: str, why: str) -> Any:
        """A weight whose base is no longer packed, reported; any other value as it is."""
        if not is_adapted(value) or not is_packed(value.base):
            return value
        self.fallbacks[Fallback(value.path, primitive, why)] = None
        return dataclasses.replace(value, base=unpacked(value.base))

    def _equation(self, eqn: jex.JaxprEqn, operands: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        try:
            if name in control.RULES:
                return control.RULES[name](self, eqn, operands)
            with compat.equation_context(eqn), jax.named_scope("lora"):
                return self._view_or_use(eqn, operands)
        except NoRule as reason:
            arrays = [self.densify(value, name, str(reason)) for value in operands]
            return bind(eqn, arrays)

    def _view_or_use(self, eqn: jex.JaxprEqn, operands: list[Any]) -> list[Any]:
        # A product with a derivative of its own is that product; the base keeps the derivative.
        inner = compat.sole_equation(eqn)
        if inner is not None and inner[0].primitive.name in USES:
            written, order = inner
            operands = [operands[place] for place in order]
        else:
            written, order = eqn, list(range(len(operands)))
        name, call = written.primitive.name, _Call(self, eqn, written, order)
        if name in PRODUCTS:
            operands = [dense(v) if is_adapted(v) and v.delta.is_full else v for v in operands]
            if not any(map(is_adapted, operands)):
                return [call.base(*operands)]
        if name in USES:
            return [USES[name](call, *operands)]
        if name == "concatenate":
            (base,) = view(eqn, [_base(value) for value in operands])
            return [views.concatenate(operands, base, eqn.params["dimension"])]
        if name == "optimization_barrier":
            bases = lax.optimization_barrier([_base(value) for value in operands])
            return [
                dataclasses.replace(value, base=base) if is_adapted(value) else base
                for value, base in zip(operands, bases, strict=True)
            ]
        swapped = name == "mul" and is_adapted(operands[1])
        weight, *others = reversed(operands) if swapped else operands
        if not is_adapted(weight) or any(map(is_adapted, others)):
            raise NoRule("no rule for an adapted weight as this operand")
        if name == "split":
            return views.split(weight, view(eqn, [weight.base]), eqn.params["axis"])
        return [_view(eqn, weight, others, swapped)]


def _view(eqn: jex.JaxprEqn, weight: AdaptedWeight, others: list[Any], swapped: bool) -> Any:
    name = eqn.primitive.name
    if name in views.BOUND_ON_FACTORS:
        bound = lambda factor: type(factor)(compat.bind_like(eqn, factor.array), factor.axes)
        delta, origin = weight.delta.map(bound), weight.origin
    elif name in views.VIEWS:
        delta, origin = views.VIEWS[name](weight, eqn.params, *others)
    else:
        raise NoRule("no rule for this primitive")
    (base,) = view(eqn, [*others, weight.base] if swapped else [weight.base, *others])
    picked, scanned = weight.picked, weight.scanned
    if name in ("slice", "dynamic_slice"):  # W[i]: a single layer or expert
        single = [i for i, n in enumerate(base.shape) if n == 1 != weight.shape[i]]
        picked = picked | merged_origin([weight.origin[i] for i in single])
    if name == "squeeze" and not weight.looked_up:  # a layer of a stack, be it the only one
        gone = [weight.origin[i] for i in eqn.params["dimensions"]]
        scanned = scanned | merged_origin(gone)
    return dataclasses.replace(
        weight, base=base, delta=delta, origin=origin, picked=picked, scanned=scanned
    )


class _Call:
    """The interpreter's side of a use (see `calls.Call`)."""

    def __init__(
        self,
        interpreter: Interpreter,
        eqn: jex.JaxprEqn,
        written: jex.JaxprEqn,
        order: Sequence[int],
    ):
        self._interpreter = interpreter
        self._eqn = eqn
        self._order = order  # operands of the rule -> operands of the equation
        self._primitive = written.primitive.name
        self.params = written.params
        self.discovering = interpreter.discovering

    def base(self, *operands: Any) -> Any:
        placed = dict(zip(self._order, operands, strict=True))
        return consume(self._eqn, [placed[i] for i in range(len(placed))])[0]

    def densify(self, weight: AdaptedWeight, why: str) -> Any:
        return self._interpreter.densify(weight, self._primitive, why)

    def record(
        self,
        weight: AdaptedWeight,
        contracted: Sequence[int],
        batch: Sequence[int],
        windows: Sequence[int] = (),
    ) -> None:
        origin = lambda axes: merged_origin([weight.origin[i] for i in axes])
        batched = origin(batch) | weight.picked | weight.scanned
        rest = [i for i in range(weight.ndim) if i not in contracted and i not in batch]
        self._interpreter.uses.append(
            Use(
                self._primitive,
                contracted=origin(contracted) - batched,
                batch=batched,
                free=origin(rest) - batched,
                windows=origin(windows) - batched,
            )
        )

    def dropped(self, weight: AdaptedWeight, x: Any) -> Any:
        drop = weight.delta.dropout
        if drop is None:
            return x
        # Each use draws its own mask; counting them in program order makes remat draw it again.
        counter = self._interpreter._dropout_uses
        counter[weight.path] += 1
        key = jax.random.fold_in(drop.key.array.reshape(-1)[0], counter[weight.path])
        keep = drop.keep.array
        kept = jax.random.bernoulli(key, keep, x.shape)
        return jnp.where(kept, x / keep.astype(x.dtype), 0)


def _costs_nothing_dense(weight: AdaptedWeight) -> bool:
    """Whether W + ΔW as an array is no more than what is there anyway."""
    delta = weight.delta
    return delta.is_full or (delta.is_identity and not is_packed(weight.base))


def _is_vector(weight: AdaptedWeight) -> bool:
    """Whether it has at most one axis: a bias, or a row picked from a table, which is data."""
    return sum(n > 1 for n in weight.shape) <= 1


def _base(value: Any) -> Any:
    return value.base if is_adapted(value) else value


def _last_uses(jaxpr: jex.Jaxpr) -> dict[Any, int]:
    """For each variable the last equation that reads it; for a result, past the end."""
    last = {
        var: position
        for position, eqn in enumerate(jaxpr.eqns)
        for var in eqn.invars
        if not isinstance(var, jex.Literal)
    }
    last.update({v: len(jaxpr.eqns) for v in jaxpr.outvars if not isinstance(v, jex.Literal)})
    return last
