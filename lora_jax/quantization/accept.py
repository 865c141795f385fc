"""A model's function, made to take quantised params without any adapter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from lora_jax.lifting import run_packed


@dataclasses.dataclass(frozen=True)
class AcceptQuantized:
    """``f``, which also takes params with quantised weights.

    Attributes:
      function: ``f(params, *args, **kwargs)``.
    """

    function: Callable[..., Any]

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        """What `f` returns for the dense params; each weight is made dense where it is used."""
        return run_packed(self.function, params, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        """What else the function offers, such as the config of a model of `hub.load_model`."""
        if name.startswith("__") or name == "function":
            raise AttributeError(name)
        return getattr(self.function, name)


def accept_quantized(f: Callable[..., Any]) -> AcceptQuantized:
    """Lets a function take quantised params, with no adapter beside them.

    `lora.lift` does so by itself; this is for evaluating or generating with the base alone. Call it
    inside `jax.jit`: each call traces `f` anew.

    Args:
      f: ``f(params, *args, **kwargs)``, as for `lora.lift`.

    Returns:
      A function with the same arguments, and the attributes of `f`.

    >>> import jax.numpy as jnp
    >>> from lora_jax.quantization import quantize
    >>> params = quantize({"kernel": jnp.ones((64, 2))}, "int8")
    >>> accept_quantized(lambda params, x: x @ params["kernel"])(params, jnp.ones((1, 64)))
    Array([[64., 64.]], dtype=float32)
    """
    return AcceptQuantized(f)
