"""LoftQ: a quantised base and the LoRA that starts at what quantising lost.

Li et al., "LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models",
arXiv 2310.08659, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax.lifting import Lifted, Site, is_packed, path_name
from lora_jax.methods import LoRA
from lora_jax.methods.initialisers.matrices import as_factors, balanced, matrix_of, scale_of, svd
from lora_jax.quantization.tree import BLOCK, quantize, quantize_array


def loftq(
    lifted: Lifted,
    params: Any,
    kind: str = "nf4",
    *,
    iterations: int = 1,
    keep: Sequence[str] = (),
    block: int = BLOCK,
) -> tuple[Any, dict[str, dict[str, jax.Array]]]:
    """Quantises a model so that the base and the first ``s·A·B`` together are nearest to W.

    In turn W - s·A·B is quantised, and A and B are set to the leading singular triples of what is
    missing. (PEFT leaves out s, and so starts off W unless alpha equals the rank.)

    Args:
      lifted: plain `LoRA` at every site, lifted over the exact params or over shapes.
      params: the exact params; they are not changed.
      kind: of `quantize`: ``"nf4"`` or ``"int8"``.
      iterations: how often both are set, at least 1.
      keep: of `quantize`.
      block: of `quantize`.

    Returns:
      The quantised params and the factors for them.

    Raises:
      ValueError: iterations below 1, a site that is no plain LoRA or is not quantised, or params
        that are quantised already.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, not {iterations!r}")
    quantized = quantize(params, kind, keep=keep, block=block)
    leaves, tree = jax.tree.flatten_with_path(quantized, is_leaf=is_packed)
    exact = {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    bases = {path_name(path): leaf for path, leaf in leaves}
    factors = {}
    for site in lifted.sites:
        _check(site, bases)
        bases[site.path], factors[site.path] = _fit(site, exact[site.path], kind, block, iterations)
    return jax.tree.unflatten(tree, bases.values()), factors


def _check(site: Site, bases: Mapping[str, Any]) -> None:
    if type(site.method) is not LoRA:
        raise ValueError(
            f"LoftQ is a start of plain LoRA, and {site.path!r} is adapted by {site.method}"
        )
    if not is_packed(bases.get(site.path)):
        raise ValueError(f"LoftQ fits LoRA to quantised weights, and {site.path!r} stays exact")


def _fit(
    site: Site, exact: Any, kind: str, block: int, iterations: int
) -> tuple[Any, dict[str, jax.Array]]:
    """The quantised weight and the factors of one site."""
    method, weight, rest = site.method, site.weight, exact
    assert isinstance(method, LoRA)
    scale = jnp.atleast_1d(scale_of(method, weight))
    for _ in range(iterations):
        base = quantize_array(rest, kind, block)
        missing = exact.astype(jnp.float32) - base.dequantize(jnp.float32)
        u, s, vt = svd(matrix_of(missing, weight))
        r = method.rank
        a, b = balanced(u[..., :r], s[..., :r], vt[..., :r, :], scale)
        change = jnp.matmul(a * jnp.expand_dims(scale, -2), b, precision="highest")
        rest = (exact.astype(jnp.float32) - _as_weight(change, weight)).astype(exact.dtype)
    return base, as_factors(a, b, weight, method.dtype)


def _as_weight(matrix: jax.Array, weight: Any) -> jax.Array:
    """The inverse of `matrix_of`."""
    axes = (*weight.batch, *weight.ins, *weight.outs)
    inverse = [axes.index(axis) for axis in range(len(axes))]
    return matrix.reshape(weight.sizes(axes)).transpose(inverse)
