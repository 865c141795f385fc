"""What `subspace` measures of adapters: φ of pairs of them, and how each stands to W."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lora_jax.analysis.amplification import Amplification, amplification
from lora_jax.analysis.change import base_matrices
from lora_jax.analysis.compare import Adapter, adapter_directions, shared_paths
from lora_jax.analysis.intruders import count_intruders
from lora_jax.analysis.spectrum import energy_rank, entropy_rank, stable_rank
from lora_jax.analysis.subspace import random_directions, similarity


class Pair(NamedTuple):
    """Two adapters to compare, or one with random directions.

    Attributes:
      kind: what the comparison shows.
      first: one adapter.
      other: another; None for uniformly random directions, the control.
      group: pairs of one kind and group are averaged, such as those of one rank.
      sides: the only ones that mean something; empty: all.
    """

    kind: str
    first: Adapter
    other: Adapter | None
    group: str = ""
    sides: tuple[str, ...] = ()


class Grid(NamedTuple):
    """φ of the pairs of one kind and group, at one weight.

    Attributes:
      kind: as of `Pair`.
      group: as of `Pair`.
      side: what was compared: "a", "b", "in" or "out".
      path: of the weight.
      dim: of the space.
      names: of the pairs.
      phi: `[pairs, layers, p, q]`.
    """

    kind: str
    group: str
    side: str
    path: str
    dim: int
    names: tuple[str, ...]
    phi: np.ndarray


class Measures(NamedTuple):
    """How an adapter stands to W; everything by path, an entry for each stacked layer.

    Attributes:
      name: of the adapter.
      amplification: table 7 of Hu et al. 2021, with as many directions as ΔW has.
      spectra: singular values of ΔW.
      entropy_rank: effective rank by entropy.
      energy_rank: directions that hold the share `energy` of the sum of squares.
      stable_rank: Σσ²/σ₁².
      intruders: how many of the leading singular vectors of W + ΔW resemble none of W's.
    """

    name: str
    amplification: dict[str, Amplification]
    spectra: dict[str, np.ndarray]
    entropy_rank: dict[str, np.ndarray]
    energy_rank: dict[str, np.ndarray]
    stable_rank: dict[str, np.ndarray]
    intruders: dict[str, np.ndarray]


def compare_pairs(pairs: Sequence[Pair], sides: Sequence[str], key: jax.Array) -> list[Grid]:
    """Computes φ of all pairs, on each side, at every weight that all of their adapters adapt."""
    paths = shared_paths([pair.first for pair in pairs])
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.kind, pair.group), []).append(pair)
    grids = []
    for (kind, group), those in groups.items():
        names = tuple(f"{p.first.name}, {p.other.name if p.other else 'random'}" for p in those)
        for side in [side for side in sides if side in (those[0].sides or sides)]:
            for path in paths:
                found = []
                for number, pair in enumerate(those):
                    first = adapter_directions(pair.first, path, side)
                    if pair.other is None:
                        other = random_directions(jax.random.fold_in(key, number), *first.shape)
                    else:
                        other = adapter_directions(pair.other, path, side)
                    found.append(np.asarray(_similarity(first, other)))
                least = [min(x.shape[axis] for x in found) for axis in (1, 2)]
                phi = np.stack([x[:, : least[0], : least[1]] for x in found])
                grids.append(Grid(kind, group, side, path, first.shape[1], names, phi))
    return grids


def measure_adapter(
    adapter: Adapter, params: Any, energy: float, intruders: Mapping[str, Any]
) -> Measures:
    """Measures one adapter against the base."""
    amplified, spectra = {}, {}
    for number, (path, site) in enumerate(adapter.sites.items()):
        change = adapter.changes[path]
        key = jax.random.fold_in(jax.random.key(1), number)
        found = _amplification(base_matrices(site, params), change, key)
        amplified[path] = jax.device_get(found)
        spectra[path] = np.asarray(change.values)
    counted = _count_intruders(adapter.lifted, params, adapter.factors, **intruders)
    ranks = lambda rank: {
        path: np.asarray(rank(adapter.changes[path].values)) for path in adapter.sites
    }
    return Measures(
        adapter.name,
        amplified,
        spectra,
        ranks(entropy_rank),
        ranks(lambda values: energy_rank(values, energy)),
        ranks(stable_rank),
        {path: np.asarray(number) for path, number in counted.items()},
    )


_similarity = jax.jit(similarity)
_amplification = jax.jit(amplification)
_count_intruders = jax.jit(count_intruders, static_argnames=("lifted", "top", "threshold"))
