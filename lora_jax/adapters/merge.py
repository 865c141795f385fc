"""What merging changes: rounding, measured rather than hoped for."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lora_jax.adapters.low_rank import weights_by_path
from lora_jax.adapters.recipe import Factors
from lora_jax.lifting import Lifted, path_name
from lora_jax.lifting.packed import is_packed, unpacked


class MergeReport(NamedTuple):
    """How far a merged model is from the unmerged one.

    Attributes:
      output: the largest absolute difference of any output (of logits, for a decoder).
      scale: the largest absolute output of the unmerged model, to compare with.
      rounding: for each site the largest absolute difference between the merged weight as it is
        stored and W + ΔW in fp32.
      change: for each site the largest absolute entry of ΔW; where rounding is not far below it,
        the adapter is lost in the type of the weight.
    """

    output: float
    scale: float
    rounding: dict[str, float]
    change: dict[str, float]

    def __str__(self) -> str:
        worst = max(self.rounding, key=lambda path: self.rounding[path])
        return (
            f"merged and unmerged outputs differ by at most {self.output:.3g} "
            f"(largest output {self.scale:.3g}); the coarsest rounding is "
            f"{self.rounding[worst]:.3g} at {worst!r}, where weights change by up to "
            f"{self.change[worst]:.3g}"
        )


def merge_report(
    lifted: Lifted, params: Any, factors: Factors, *args: Any, **kwargs: Any
) -> MergeReport:
    """Compares the merged model with the unmerged one on some inputs.

    Args:
      lifted: the lifted function.
      params: the frozen params.
      factors: as the adapter's.
      *args: the other arguments of the function; real inputs tell most.
      **kwargs: its other keyword arguments; they may be static.

    Returns:
      Differences of outputs and of weights.

    Raises:
      ValueError: as `Lifted.merge`, for weights that are not finite.
    """
    merged = lifted.merge(params, factors)
    unmerged_outputs = jax.jit(lambda p, f, a: lifted(p, f, *a, **kwargs))(params, factors, args)
    merged_outputs = jax.jit(lambda p, a: lifted.function(p, *a, **kwargs))(merged, args)
    pairs = [
        (one.astype(jnp.float32), other.astype(jnp.float32))
        for one, other in zip(
            jax.tree.leaves(unmerged_outputs), jax.tree.leaves(merged_outputs), strict=True
        )
        if jnp.issubdtype(one.dtype, jnp.floating)
    ]
    exact = weights_by_path(_exact(lifted, params, factors))
    stored, base = weights_by_path(merged), weights_by_path(params)
    wide = lambda leaf: unpacked(leaf, jnp.float32)
    largest = lambda x, y: float(jnp.abs(wide(x) - wide(y)).max())
    paths = [site.path for site in lifted.sites]
    return MergeReport(
        output=max((float(jnp.abs(x - y).max()) for x, y in pairs), default=0.0),
        scale=max((float(jnp.abs(x).max()) for x, _ in pairs), default=0.0),
        rounding={path: largest(stored[path], exact[path]) for path in paths},
        change={path: largest(exact[path], base[path]) for path in paths},
    )


def _exact(lifted: Lifted, params: Any, factors: Factors) -> Any:
    """The merged params with every site in fp32."""
    paths = {site.path for site in lifted.sites}
    wide = lambda path, leaf: leaf.astype(jnp.float32) if path_name(path) in paths else leaf
    wide_params = jax.tree_util.tree_map_with_path(wide, params, is_leaf=is_packed)
    return lifted.merge(wide_params, factors)
