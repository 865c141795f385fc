"""Quantising params: which leaves, and one weight at a time."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax import targets
from lora_jax.lifting import Weight, is_packed, path_name
from lora_jax.quantization.blocks import check_blocks
from lora_jax.quantization.int8 import Int8
from lora_jax.quantization.nf4 import Nf4

Quantized = Int8 | Nf4

KINDS: dict[str, type[Int8] | type[Nf4]] = {"int8": Int8, "nf4": Nf4}

BLOCK = 64

# Kept as they are: looked up rather than multiplied, or vectors (stacked, they look like matrices).
_VECTORS_AND_TABLES = ("bias", "b", "scale", "offset", "embedding", "embeddings")
# Kept as they are, as parts of a path: output heads, which are trained or decide alone; routers,
# small, and their rounding would move tokens to other experts; convolutions, also of patches.
_MODULES = ("embed", "lm_head", "head", "classifier", "pooler", "router", "conv", "patches")


def quantize_array(w: Any, kind: str = "nf4", block: int = BLOCK) -> Quantized:
    """Quantises one weight.

    Args:
      w: floats ``[*stack, in, out]``, or its `jax.ShapeDtypeStruct`.
      kind: ``"nf4"`` or ``"int8"``.
      block: how many inputs share a scale: even, and a divisor of `in`.

    Returns:
      A pytree with the weight's shape and dtype, whose ``dequantize()`` makes it dense.

    Raises:
      ValueError: an unknown kind, a weight that is no matrix of floats or already quantised, or a
        block that does not fit.

    >>> w = jnp.linspace(-1, 1, 64 * 2).reshape(64, 2)
    >>> q = quantize_array(w, "nf4")
    >>> q.codes.shape, q.scales.shape, q.shape
    ((32, 2), (1, 2), (64, 2))
    """
    check_kind(kind)
    if is_packed(w):
        raise ValueError(f"the weight is already quantised ({type(w).__name__})")
    try:
        check_blocks(w.shape, w.dtype, block)
    except ValueError as error:
        raise ValueError(f"the weight {error}") from None
    if isinstance(w, jax.ShapeDtypeStruct):
        return jax.eval_shape(lambda w: KINDS[kind].quantize(w, block), w)
    return _compiled(kind, block)(w)


def quantize(
    params: Any, kind: str = "nf4", *, keep: Sequence[str] = (), block: int = BLOCK
) -> Any:
    """Quantises every linear weight of a model.

    Linear weights are floats of two axes or more, named as neither vector (biases, norms) nor
    table (embeddings), outside of output heads, routers and convolutions. One is quantised at a
    time; ``hub.load_model(…, quantize=kind)`` never holds the whole model in full precision.

    Args:
      params: any pytree of arrays, or of `jax.ShapeDtypeStruct`s, to plan with.
      kind: ``"nf4"``, or ``"int8"``.
      keep: patterns of further weights to keep as they are, written as targets are.
      block: how many inputs share a scale.

    Returns:
      The same tree, in which each linear weight is an `Nf4` or `Int8`. `lora.lift` takes it as it
      takes params; `lora.quantization.accept_quantized` lets the model itself take it.

    Raises:
      ValueError: an unknown kind, a pattern that matches nothing, no weight to quantise, a weight
        whose inputs `block` does not divide, one that is already quantised, or NaN or infinity.

    >>> params = {"up": {"kernel": jnp.ones((64, 128)), "bias": jnp.ones(128)}}
    >>> jax.tree.map(jnp.shape, quantize(params)["up"]["kernel"].codes)
    (32, 128)
    """
    check_kind(kind)
    flat, structure = jax.tree.flatten_with_path(params, is_leaf=is_packed)
    leaves = {path_name(path): leaf for path, leaf in flat}
    chosen = set(choose(leaves, keep, block))
    made = [
        _checked(path, quantize_array(leaf, kind, block)) if path in chosen else leaf
        for path, leaf in leaves.items()
    ]
    return jax.tree.unflatten(structure, made)


def choose(leaves: Any, keep: Sequence[str], block: int) -> list[str]:
    """The paths of the weights that `quantize` quantises.

    Args:
      leaves: arrays or shapes, by path.
      keep: patterns of weights to leave out.
      block: how many inputs share a scale.

    Raises:
      ValueError: as `quantize`.
    """
    for path, leaf in leaves.items():
        if is_packed(leaf):
            raise ValueError(f"params[{path!r}] is already quantised ({type(leaf).__name__})")
        if _is_kernel(path, leaf) and jnp.issubdtype(leaf.dtype, jnp.integer):
            raise ValueError(f"params[{path!r}] is of type {leaf.dtype}: only floats are quantised")
    kept = {path for pattern in _as_sequence(keep) for path in _match_kept(pattern, leaves)}
    chosen = [path for path, leaf in leaves.items() if _is_linear(path, leaf) and path not in kept]
    if not chosen:
        raise ValueError(
            f"keep={tuple(_as_sequence(keep))} leaves no linear weight to quantise; "
            f"params hold {', '.join(list(leaves)[:3])} …"
        )
    for path in chosen:
        try:
            check_blocks(leaves[path].shape, leaves[path].dtype, block)
        except ValueError as error:
            raise ValueError(f"params[{path!r}] {error}") from None
    return chosen


def check_kind(kind: str) -> None:
    """Checks the name of a kind of quantisation.

    Raises:
      ValueError: it is not known.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown quantisation {kind!r}; known: {', '.join(KINDS)}")


@functools.cache
def _compiled(kind: str, block: int) -> Any:
    return jax.jit(lambda w: KINDS[kind].quantize(w, block))


def _is_kernel(path: str, leaf: Any) -> bool:
    *modules, name = path.split("/")
    named = name not in _VECTORS_AND_TABLES and not set(_MODULES) & set(modules)
    return named and len(getattr(leaf, "shape", ())) >= 2


def _is_linear(path: str, leaf: Any) -> bool:
    return _is_kernel(path, leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _match_kept(pattern: str, leaves: Any) -> list[str]:
    weights = {
        path: Weight(path, leaf.shape, leaf.dtype, (), (), (), uses=("dot_general",))
        for path, leaf in leaves.items()
        if len(getattr(leaf, "shape", ())) >= 2
    }
    try:
        return targets.match(pattern, weights, list(leaves))
    except ValueError as error:
        raise ValueError(str(error).replace("target", "keep", 1)) from None


def _as_sequence(patterns: str | Sequence[str]) -> Sequence[str]:
    return (patterns,) if isinstance(patterns, str) else patterns


def _checked(path: str, weight: Quantized) -> Quantized:
    """Refuses NaN and infinity, which spread from one weight over a block or a whole matrix."""
    for leaf in jax.tree.leaves(weight):
        known = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
        if known and not jnp.isfinite(leaf).all():
            raise ValueError(f"params[{path!r}] holds NaN or infinity")
    return weight
