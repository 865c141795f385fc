"""Bottleneck adapters, the layers that LoRA is compared with: they make a model deeper.

Houlsby et al., arXiv 1902.00751, behind attention and behind the feed-forward block; Lin et al.,
arXiv 2004.03829, behind the latter alone, with a norm of their own. The LoRA paper (arXiv
2106.09685, table 1) measures what they add to a pass; unlike LoRA they cannot be merged.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from lora_jax.models.layers import LayerNorm, Linear
from lora_jax.models.registry import FAMILIES, Apply, Model
from lora_jax.models.stack import stack_layers


class Bottleneck(nnx.Module):
    """``x + up(relu(down(x)))``, down to a small width; with a norm before it if asked."""

    def __init__(
        self, dim: int, width: int, *, normalized: bool, dtype: str, rngs: nnx.Rngs
    ) -> None:
        self.norm = LayerNorm(dim, eps=1e-5, dtype=dtype) if normalized else None
        self.down = Linear(dim, width, dtype=dtype, rngs=rngs)
        self.up = Linear(width, dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        """Applies the adapter."""
        inner = x if self.norm is None else self.norm(x)
        return x + self.up(jax.nn.relu(self.down(inner)))


class Followed(nnx.Module):
    """A module and the adapter behind it."""

    def __init__(self, inner: nnx.Module, adapter: nnx.Module) -> None:
        self.inner = inner
        self.adapter = adapter

    def __call__(self, x: Float[Array, "*batch ins"]) -> Float[Array, "*batch outs"]:
        """Applies both."""
        return self.adapter(self.inner(x))


def add_bottlenecks(
    config: Any,
    params: dict[str, Any],
    key: PRNGKeyArray,
    *,
    width: int,
    behind: Sequence[str],
    normalized: bool = False,
) -> tuple[Model, dict[str, Any]]:
    """Puts a random bottleneck adapter behind some modules of every layer of a decoder.

    Args:
        config: the config of the model.
        params: the params of the model; they are shared, not copied.
        key: the source of randomness of the adapters.
        width: of the bottleneck, at least 1.
        behind: names of projections within a layer that give the width of the hidden state, such
            as `("o_proj", "fc2")`.
        normalized: whether each adapter begins with a layer norm.

    Returns:
        The deeper model and its params.

    Raises:
        ValueError: a layer has no such projection, or the width is below 1.
    """
    known = sorted(name for name in params["layers"] if "kernel" in params["layers"][name])
    if unknown := sorted(set(behind) - set(known)):
        raise ValueError(f"layers have no {', '.join(unknown)}; they have {', '.join(known)}")
    if width < 1:
        raise ValueError(f"width = {width}; a bottleneck has at least 1")
    make = functools.partial(
        Bottleneck, config.dim, width, normalized=normalized, dtype=config.dtype
    )

    def adapters(key: PRNGKeyArray) -> dict[str, nnx.Module]:
        keys = jax.random.split(key, len(behind))
        return {
            name: stack_layers(lambda rngs: make(rngs=rngs), config.layers, nnx.Rngs(own))
            for name, own in zip(behind, keys, strict=True)
        }

    def deeper() -> Any:
        model: Any = FAMILIES[config.model_type](config, nnx.Rngs(0))
        for name, adapter in adapters(key).items():
            setattr(model.layers, name, Followed(getattr(model.layers, name), adapter))
        return model

    graphdef, shapes = nnx.split(nnx.eval_shape(deeper))
    layers = dict(params["layers"])
    for name, adapter in adapters(key).items():
        layers[name] = {"inner": layers[name], "adapter": nnx.to_pure_dict(nnx.state(adapter))}
    return Model(Apply(graphdef, config), nnx.to_pure_dict(shapes)), {**params, "layers": layers}
