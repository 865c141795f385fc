"""EVA: A starts at the directions in which a weight's inputs vary most.

Paischer et al., "Parameter Efficient Fine-tuning via Explained Variance Adaptation",
arXiv 2410.07170, sections 3.2 and 3.3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.lifting import Lifted, Weight
from lora_jax.lifting.relift import relift
from lora_jax.methods.initialisers.gather import InputMoments
from lora_jax.methods.initialisers.matrices import as_factors
from lora_jax.methods.lora import LoRA


@dataclasses.dataclass(frozen=True, kw_only=True)
class EVA(LoRA):
    """LoRA whose A starts at the principal components of the weight's inputs, and B at zero.

    ``factors = lifted.init(key, params, gather_inputs(lifted, params, batches))``. To give each
    weight the rank its inputs deserve, see `redistribute_ranks`.

    Attributes:
      whiten: divide each component by the root of its singular value (PEFT's option).
      others: as `LoRA`.
    """

    whiten: bool = False
    starts_from: ClassVar[str] = "gather_inputs"

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        """``a``: the leading components, signs free; ``b = 0``."""
        plain = super().init(key, weight)
        if weight.gathered is None:  # on shapes alone
            return plain
        values, vectors, rows = components(weight.gathered, weight)
        a = vectors[..., : self.rank]
        if self.whiten:
            singular = jnp.sqrt(jnp.maximum(values * rows[..., None], 0.0))[..., : self.rank]
            a = a / jnp.sqrt(singular)[..., None, :]
        b = jnp.zeros((*a.shape[:-2], self.rank, weight.fan_out))
        return as_factors(a, b, weight, self.dtype)

    def __str__(self) -> str:
        return super().__str__().replace("LoRA", "EVA", 1)


def components(moments: InputMoments, weight: Weight) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The principal components of a weight's inputs about their mean.

    Returns:
      Variances, largest first, ``(*batch, in)``; components as columns ``(*batch, in, in)``; and
      the number of rows ``(*batch)``.
    """
    batch, size = weight.sizes(weight.batch), weight.fan_in
    rows = moments.rows
    mean = moments.first.reshape(*batch, size) / rows[..., None]
    second = moments.second.reshape(*batch, size, size) / rows[..., None, None]
    values, vectors = jnp.linalg.eigh(second - mean[..., :, None] * mean[..., None, :])
    return values[..., ::-1], vectors[..., ::-1], rows


def explained(moments: InputMoments, weight: Weight) -> jax.Array:
    """The share of the inputs' variance along each component, largest first, ``(*batch, in)``."""
    values, _, _ = components(moments, weight)
    return values / values.sum(axis=-1, keepdims=True)


def ranks_by_variance(
    lifted: Lifted, moments: Mapping[str, InputMoments], rho: float = 2.0
) -> dict[str, tuple[int, ...]]:
    """How EVA shares the ranks of all sites and layers out among them, by explained variance.

    All components of all weights are ordered by the share of variance they explain, and as many of
    the first are taken as there are ranks now; none gets more than `rho` times its rank. Among
    equal shares (weights with the same inputs) earlier sites come first.

    Args:
      lifted: its sites have ranks, one for all layers of a site.
      moments: of its sites' inputs, concrete.
      rho: at least 1; 1 leaves the ranks as they are.

    Returns:
      The rank of each layer of each site, by path; some may be zero.

    Raises:
      ValueError: rho below 1, or a site that nothing was gathered for.
    """
    if not rho >= 1.0:
        raise ValueError(f"rho must be at least 1, not {rho!r}")
    shares, owners, budget = [], [], 0
    for site in lifted.sites:
        if site.path not in moments:
            raise ValueError(f"nothing was gathered for {site.path!r}")
        rank = int(site.method.rank)  # type: ignore[attr-defined]
        found = np.asarray(explained(moments[site.path], site.weight))
        found = found.reshape(-1, found.shape[-1])[:, : round(rank * rho)]
        for layer, row in enumerate(found):
            shares.extend(row)
            owners.extend([(site.path, layer)] * len(row))
            budget += rank
    taken = np.argsort(-np.asarray(shares), kind="stable")[:budget]
    counts = dict.fromkeys(owners, 0)
    for index in taken:
        counts[owners[index]] += 1
    return {
        site.path: tuple(n for (path, _), n in counts.items() if path == site.path)
        for site in lifted.sites
    }


def redistribute_ranks(
    lifted: Lifted, moments: Mapping[str, InputMoments], rho: float = 2.0
) -> Lifted:
    """The same function with the same methods, whose ranks are shared out by explained variance.

    As in PEFT alpha follows the rank, so that the scale α / r stays what it is, and a weight left
    without a rank is left out.

    Args:
      lifted: its methods are `EVA`, or another LoRA, with one rank for all layers of a site.
      moments: of its sites' inputs, concrete (`gather_inputs`).
      rho: no layer gets more than `rho` times its rank.

    Returns:
      A `Lifted`, to be initialised with the same moments.

    Raises:
      ValueError: as `ranks_by_variance`.
    """
    shared = ranks_by_variance(lifted, moments, rho)
    methods, kept = {}, []
    for site in lifted.sites:
        ranks, method = shared[site.path], site.method
        if not any(ranks):
            continue
        assert isinstance(method, LoRA)
        alphas = tuple(method.alpha * (rank or method.rank) / method.rank for rank in ranks)
        each = {"ranks": ranks, "alphas": alphas} if site.batch else {"alpha": alphas[0]}
        methods[site.path] = dataclasses.replace(method, rank=max(ranks), **each)
        kept.append(site)
    return relift(lifted, kept, methods)
