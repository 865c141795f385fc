"""The public `lift`: joins targets and methods with the transformation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from lora_jax.lifting import Lifted, Method, Weight, lift_weights
from lora_jax.methods import LoRA
from lora_jax.targets import Targets, choose


def lift(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    method: Method | None = None,
    targets: Targets,
    exclude: Sequence[str] = (),
    strict: bool = False,
    **kwargs: Any,
) -> Lifted:
    """Turns ``f(params, *args)`` into ``g(params, factors, *args)`` with low-rank updates beside W.

    The model is not edited: `f` is traced once on shapes, which tells how each weight's axes are
    used. Any pytree of params will do, of any framework or none.

    Args:
      f: a pure function of its params, ``f(params, *args, **kwargs)``.
      params: the frozen params: arrays, or `jax.ShapeDtypeStruct`s; nothing is allocated.
      *args: example arguments of `f`, arrays or shapes; bools and other non-arrays are static.
      method: how ΔW is described; `LoRA()` if left out.
      targets: which weights to adapt. Names or path suffixes (``"q_proj"``), regular expressions
        over whole paths, `ALL_LINEAR`, and `BIASES` and `NORMS` for methods that fit them; or a
        mapping from those to a rank or a method.
      exclude: patterns of weights to leave out.
      strict: raise `DenseFallbackError` where a weight is used in a way that needs W + ΔW as an
        array, rather than warn once.
      **kwargs: example keyword arguments of `f`.

    Returns:
      A `Lifted`: `init`, call, `merge`, `unmerge`; ``print`` shows what was adapted.

    Raises:
      ValueError: a pattern matches no weight (with the nearest names), or a rank does not fit.

    >>> import jax, jax.numpy as jnp
    >>> def model(params, x):
    ...     return jax.nn.relu(x @ params["up"]) @ params["down"]
    >>> params = {"up": jnp.ones((4, 16)), "down": jnp.ones((16, 4))}
    >>> x = jnp.ones((2, 4))
    >>> lifted = lift(model, params, x, method=LoRA(rank=2, alpha=4), targets=("up",))
    >>> factors = lifted.init(jax.random.key(0), params)
    >>> jax.tree.map(jnp.shape, factors)
    {'up': {'a': (4, 2), 'b': (2, 16)}}
    >>> bool((lifted(params, factors, x) == model(params, x)).all())  # B starts at zero
    True
    """
    default: Method = LoRA() if method is None else method

    def pick(weights: Mapping[str, Weight], paths: Sequence[str]) -> Mapping[str, Method]:
        return choose(targets, exclude, default, weights, paths)

    return lift_weights(f, params, args, kwargs, pick, strict)


def count_parameters(tree: Any) -> int:
    """The number of entries in all arrays of a tree.

    >>> import numpy as np
    >>> count_parameters({"a": np.zeros((4, 2)), "b": np.zeros((2, 3))})
    14
    """
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
