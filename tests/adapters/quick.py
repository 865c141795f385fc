"""Calls compiled as one program each: op by op, nearly all time would be compilation."""

import jax
from golden.case import QUICK

import lora_jax as lora


def quick(f, *args):
    """``f(*args)``, compiled as quickly as can be."""
    return jax.jit(f, compiler_options=QUICK)(*args)


def combine(adapters, *args, **kwargs):
    """As `lora.combine`."""
    return _described(
        lambda trees, key: lora.combine(
            [(lifted, tree) for (lifted, _), tree in zip(adapters, trees, strict=True)],
            *args,
            key=key,
            **kwargs,
        ),
        [factors for _, factors in adapters],
        kwargs.pop("key", None),
    )


def to_lora(lifted, factors, *, params=None, **kwargs):
    """As `lora.to_lora`, by rank or exactly."""
    return _described(
        lambda factors, params: lora.to_lora(lifted, factors, params=params, **kwargs),
        factors,
        params,
    )


def _described(make, *args):
    described = []

    def arrays(*args):
        lifted, factors = make(*args)
        described.append(lifted)
        return factors

    factors = quick(arrays, *args)
    return described[0], factors
