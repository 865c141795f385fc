"""What adapters share: a table of φ against chance, and heat maps of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.subspace_measures import Grid
from lora_jax.analysis.subspace import above_chance, chance_deviation, chance_level
from lora_jax.evaluation import Interval, mean_interval
from lora_jax.reports import Column, HeatMap, Section, heat_maps_plot, html, plus_minus

SIDES = {
    "a": "A",
    "b": "B",
    "in": "ΔW, inputs",
    "out": "ΔW, outputs",
}
KINDS = {
    "ranks": "low rank against high rank, same seed",
    "seeds": "a seed against another",
    "own start": "after training against before",
    "one another": "one adapter against another",
    "against random": "against random directions (control)",
}
PHI = (
    "φ(i, j) is the mean squared cosine between the top i directions of one adapter and the top j "
    "of the other (Hu et al. 2021, eq. 4). Independent subspaces of d dimensions share "
    "max(i, j)/d by chance: that is subtracted, and what is left divided by 1 − max(i, j)/d, so "
    "that 0 is chance and 1 is the same subspace. Deviations: how many standard deviations of "
    "chance the mean over {layers} layers and the pairs lies above it. ± is the 95 % t-interval "
    "over the pairs; pairs of seeds go round a ring and share adapters."
)
PUBLISHED_PHI = (
    "Published (Hu et al. 2021, section 7.2, GPT-3 175B, layer 48 of 96, d = 12,288): the top "
    "direction of r = 8 and r = 64 shares φ > 0.5, for ΔWq and for ΔWv; two seeds share more for "
    "ΔWq than for ΔWv; random Gaussians share nothing. At their d chance is 0.005 for j = 64."
)
SHARED_COLUMNS = [
    Column("kind", "compared"),
    Column("side", "of"),
    Column("module", "module"),
    Column("directions", "i, j"),
    Column("chance", "chance", "{:.4f}"),
    Column("phi", "φ", plus_minus(4)),
    Column("above", "above chance", plus_minus(4)),
    Column("deviations", "deviations", "{:.1f}"),
]


class Shared(NamedTuple):
    """A row of the table of φ."""

    kind: str
    side: str
    module: str
    directions: str
    chance: float
    scores: tuple[float, ...]
    phi: Interval
    above: Interval
    deviations: float


def shared_section(grids: Sequence[Grid], shared: Sequence[Shared]) -> Section:
    """The table, and the heat maps."""
    pieces = [
        html.table(shared, SHARED_COLUMNS),
        html.paragraph(PHI.format(layers=grids[0].phi.shape[1])),
        html.paragraph(PUBLISHED_PHI),
    ]
    return Section("What they share", [*pieces, *(html.figure(*one) for one in heat_maps(grids))])


def summarize(grid: Grid) -> list[Shared]:
    """φ of the top direction and of all directions, against chance."""
    p, q = grid.phi.shape[-2:]
    chance, deviation = chance_level(p, q, grid.dim), chance_deviation(p, q, grid.dim)
    above = above_chance(grid.phi, grid.dim)
    count = grid.phi.shape[0] * grid.phi.shape[1]
    rows = []
    for i, j in dict.fromkeys([(1, 1), (1, q), (p, q)]):
        at = (..., i - 1, j - 1)
        scores = tuple(grid.phi[at].mean(axis=1).tolist())
        error = deviation[i - 1, j - 1] / np.sqrt(count)
        rows.append(
            Shared(
                kind=f"{KINDS[grid.kind]}{grid.group and f', r = {grid.group}'}",
                side=SIDES[grid.side],
                module=module_of(grid.path),
                directions=f"{i}, {j}",
                chance=float(chance[i - 1, j - 1]),
                scores=scores,
                phi=mean_interval(scores),
                above=mean_interval(above[at].mean(axis=1).tolist()),
                deviations=float((np.mean(scores) - chance[i - 1, j - 1]) / error)
                if error
                else float("nan"),
            )
        )
    return rows


def module_of(path: str) -> str:
    """The name of a weight without what all have in common.

    >>> module_of("layers/q_proj/kernel")
    'q_proj'
    """
    return path.removesuffix("/kernel").removeprefix("layers/")


def heat_maps(grids: Sequence[Grid]) -> list[tuple[str, str]]:
    """A figure for each kind and side: φ above chance, per layer and module.

    Of comparisons within a rank those of the highest are drawn; phi.npz holds all.
    """
    largest = {grid.kind: grid.group for grid in grids}  # the last: ranks rise
    figures: dict[tuple[str, str, str], list[Grid]] = {}
    for grid in grids:
        if grid.kind == "ranks" or grid.group == largest[grid.kind]:
            figures.setdefault((grid.kind, grid.group, grid.side), []).append(grid)
    drawn = []
    for (kind, group, side), those in figures.items():
        maps = [
            HeatMap(
                f"{module_of(grid.path)}, layer {layer + 1}",
                above_chance(grid.phi, grid.dim).mean(axis=0)[layer],
            )
            for grid in those
            for layer in range(grid.phi.shape[1])
        ]
        p, q = those[0].phi.shape[-2:]
        columns = min(6, max(1, those[0].phi.shape[1]))
        svg = heat_maps_plot(
            maps, x_label="j", y_label="i", value_label="φ above chance", high=1.0, columns=columns
        )
        dims = " and ".join(str(dim) for dim in dict.fromkeys(grid.dim for grid in those))
        level = chance_level(p, q, those[0].dim)
        caption = (
            f"{SIDES[side]}: {KINDS[kind]}{group and f', r = {group}'}. Mean over "
            f"{len(those[0].names)} pairs; chance that is subtracted: {level[0, 0]:.4f} at "
            f"(1, 1), {level[-1, -1]:.3f} at ({p}, {q}), d = {dims}."
        )
        drawn.append((svg, caption))
    return drawn


def finding(shared: Sequence[Shared]) -> str:
    """One sentence on the comparison that the study is about."""
    first = [row for row in shared if "random" not in row.kind and row.directions == "1, 1"]
    return " ".join(
        f"{row.side} of {row.module}, {row.kind}: the top directions share {row.phi.mean:.3f}, by "
        f"chance {row.chance:.3f}."
        for row in first[:2]
    )
