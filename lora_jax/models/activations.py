"""Activation functions under the names that `config.json` files use.

Those made of an expensive function have a derivative of their own, which takes that function of -x.
A compiler that saw it of x in both passes would hold its result, an array as large as x, from the
forward to the backward pass.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Activation = Callable[[Array], Array]


def _with_slope(function: Activation, slope: Activation) -> Activation:
    """An element-wise function with its derivative; both are computed in at least float32."""

    def wide(f: Activation, x: Array) -> Array:
        return f(x.astype(jnp.promote_types(x.dtype, jnp.float32))).astype(x.dtype)

    @jax.custom_jvp
    def activate(x: Float[Array, "..."]) -> Float[Array, "..."]:
        return wide(function, x)

    @activate.defjvp
    def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        (x,), (moved,) = primals, tangents
        return activate(x), wide(slope, x) * moved

    return activate


def _gelu(x: Array) -> Array:
    """x Φ(x), with the normal distribution's Φ (Hendrycks and Gimpel, 2016)."""
    return x * (0.5 + 0.5 * lax.erf(x * 0.5**0.5))


def _gelu_slope(x: Array) -> Array:
    density = jnp.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5
    return 0.5 - 0.5 * lax.erf(x * -(0.5**0.5)) + x * density


_TANH_SCALE, _TANH_CUBIC = (2 / math.pi) ** 0.5, 0.044715


def _gelu_tanh(x: Array) -> Array:
    """GELU with Φ approximated by tanh (Hendrycks and Gimpel, 2016, section 2)."""
    inner = _TANH_SCALE * x * (1 + _TANH_CUBIC * x * x)
    return x * (0.5 + 0.5 * jnp.tanh(inner))


def _gelu_tanh_slope(x: Array) -> Array:
    minus_tanh = jnp.tanh(-_TANH_SCALE * x * (1 + _TANH_CUBIC * x * x))
    inner_slope = _TANH_SCALE * (1 + 3 * _TANH_CUBIC * x * x)
    return 0.5 - 0.5 * minus_tanh + 0.5 * x * (1 - minus_tanh * minus_tanh) * inner_slope


def _silu(x: Array, steepness: float = 1.0) -> Array:
    """x times the sigmoid of x."""
    return x * lax.logistic(steepness * x)


def _silu_slope(x: Array, steepness: float = 1.0) -> Array:
    minus = lax.logistic(-steepness * x)  # 1 - logistic(x)
    return (1 - minus) * (1 + steepness * x * minus)


def _quick_gelu(x: Array) -> Array:
    """The sigmoid approximation of GELU (Hendrycks and Gimpel, 2016, section 2)."""
    return _silu(x, 1.702)


def _quick_gelu_slope(x: Array) -> Array:
    return _silu_slope(x, 1.702)


_exact = _with_slope(_gelu, _gelu_slope)
_by_tanh = _with_slope(_gelu_tanh, _gelu_tanh_slope)
_swish = _with_slope(_silu, _silu_slope)

ACTIVATIONS: dict[str, Activation] = {
    "gelu": _exact,
    "gelu_new": _by_tanh,
    "gelu_fast": _by_tanh,
    "gelu_pytorch_tanh": _by_tanh,
    "quick_gelu": _with_slope(_quick_gelu, _quick_gelu_slope),
    "relu": jax.nn.relu,
    "silu": _swish,
    "swish": _swish,
    "tanh": jnp.tanh,
}
