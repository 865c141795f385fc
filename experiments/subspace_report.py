"""What `subspace` leaves: phi.npz and results.json for programs, report.html for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments.subspace_measures import Grid, Measures
from lora_jax import reports
from lora_jax.analysis.subspace import above_chance, chance_deviation, chance_level
from lora_jax.evaluation import Interval, mean_interval
from lora_jax.reports import (
    Column,
    Curve,
    HeatMap,
    Published,
    Section,
    curves_plot,
    heat_maps_plot,
    html,
)
from lora_jax.reports.tables import plus_minus

if TYPE_CHECKING:
    from experiments.subspace import Run

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
AMPLIFICATION = (
    "‖UᵀWV‖_F for U, V of ΔW, of W itself (√Σσ² of its top r) and random (one draw; by chance: "
    "r·‖W‖_F/√(in·out)); the factor is ‖ΔW‖_F over the first. Mean over the layers; ± over the "
    "adapters. What ΔW has to do with W shows in the ratio of the first column to chance, and not "
    "in the factor, which is largest where the two have nothing in common."
)
SPECTRA = (
    "Singular values of ΔW over the largest: the mean over layers, and the range over adapters."
)
RANKS = (
    "Effective ranks of ΔW: e to the entropy of σ/Σσ (Roy and Vetterli 2007), the fewest "
    "directions with {energy:.0%} of Σσ² and Σσ²/σ₁². Intruders: of the {top} leading singular "
    "vectors of W + ΔW those whose largest |cosine| with any of W's is below {threshold} "
    "(Shuttleworth et al. 2024). Mean over the layers; ± over the adapters."
)
# Hu et al. 2021, table 7: ‖UᵀWqV‖ for ΔWq, Wq and random; ‖ΔWq‖; the amplification as printed.
TABLE_7 = ((4, 0.32, 21.67, 0.02, 6.91, 21.5), (64, 1.90, 37.71, 0.33, 3.57, 1.88))


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


def write_report(
    workdir: Path,
    config: ConfigDict,
    runs: Sequence[Run],
    grids: Sequence[Grid],
    measures: Sequence[Measures],
) -> None:
    """Writes phi.npz, results.json and report.html."""
    shared = [row for grid in grids for row in summarize(grid)]
    amplified, ranks = amplification_rows(runs, measures), rank_rows(runs, measures)
    arrays = {f"{g.kind}|{g.group}|{g.side}|{g.path}": g.phi.astype(np.float32) for g in grids}
    np.savez_compressed(workdir / "phi.npz", **arrays)  # type: ignore[arg-type]
    results = {
        "adapters": [{"name": run.adapter.name, "score": run.score} for run in runs],
        "shared": shared,
        "amplification": amplified,
        "ranks": ranks,
        "measures": measures,
    }
    layers = grids[0].phi.shape[1]
    sections = [
        *adapter_section(runs),
        Section(
            "What they share",
            [
                html.table(shared, SHARED_COLUMNS),
                html.paragraph(PHI.format(layers=layers)),
                html.paragraph(PUBLISHED_PHI),
                *(html.figure(*drawn) for drawn in heat_maps(grids)),
            ],
        ),
        Section(
            "W in the directions of ΔW",
            [
                html.table([*amplified, *published_amplification()], AMPLIFICATION_COLUMNS),
                html.paragraph(AMPLIFICATION),
            ],
        ),
        Section(
            "How many directions",
            [
                html.figure(spectra_plot(runs, measures), SPECTRA),
                html.table(ranks, RANK_COLUMNS),
                html.paragraph(RANKS.format(energy=config.energy, **config.intruders.to_dict())),
            ],
        ),
    ]
    reports.write_report(
        workdir,
        "subspace",
        config.to_dict(),
        results,
        title="What did LoRA learn?",
        sections=sections,
        lead=f"{len(runs)} adapters of {config.model.name or config.model.path}, {layers} layers.",
        finding=finding(shared),
    )


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


def amplification_rows(runs: Sequence[Run], measures: Sequence[Measures]) -> list[dict[str, Any]]:
    """Table 7 for each group of adapters and each module."""
    rows = []
    for name, those in grouped(runs, measures).items():
        for path in those[0].amplification:
            of = lambda field, path=path, those=those: mean_interval(
                [float(np.mean(getattr(m.amplification[path], field))) for m in those]
            )
            fields = (*those[0].amplification[path]._fields, "factor")
            row: dict[str, Any] = {"name": name, "module": module_of(path)}
            row |= {field: of(field) for field in fields}
            ratios = [
                float(np.mean(m.amplification[path].in_change / m.amplification[path].by_chance))
                for m in those
            ]
            rows.append({**row, "over_chance": mean_interval(ratios)})
    return rows


def published_amplification() -> list[Published]:
    """Table 7 as it was published."""
    names = ("in_change", "in_weight", "in_random", "change_norm", "factor")
    return [
        Published(
            "Hu et al. 2021, table 7, GPT-3 175B",
            {"name": f"r = {rank}", "module": "Wq", **dict(zip(names, row, strict=True))},
        )
        for rank, *row in TABLE_7
    ]


def rank_rows(runs: Sequence[Run], measures: Sequence[Measures]) -> list[dict[str, Any]]:
    """Effective ranks and intruders for each group of adapters and each module."""
    fields = ("entropy_rank", "energy_rank", "stable_rank", "intruders")
    return [
        {
            "name": name,
            "module": module_of(path),
            **{
                field: mean_interval([float(np.mean(getattr(m, field)[path])) for m in those])
                for field in fields
            },
        }
        for name, those in grouped(runs, measures).items()
        for path in those[0].spectra
    ]


def grouped(runs: Sequence[Run], measures: Sequence[Measures]) -> dict[str, list[Measures]]:
    """Measures of the seeds of a rank together; of adapters that were loaded, each alone."""
    groups: dict[str, list[Measures]] = {}
    for run, measure in zip(runs, measures, strict=True):
        name = f"r = {run.rank}" if run.rank else run.adapter.name
        groups.setdefault(name, []).append(measure)
    return groups


def adapter_section(runs: Sequence[Run]) -> list[Section]:
    """Scores of the adapters that were trained here."""
    rows = [
        {
            "name": f"r = {rank}",
            "score": mean_interval([r.score or 0.0 for r in runs if r.rank == rank]),
        }
        for rank in dict.fromkeys(run.rank for run in runs)
        if rank
    ]
    columns = [Column("name", "adapters"), Column("score", "score on the test set", plus_minus(3))]
    return [Section("The adapters", [html.table(rows, columns)])] if rows else []


def spectra_plot(runs: Sequence[Run], measures: Sequence[Measures]) -> str:
    """Singular values over their number."""
    curves = []
    for name, those in grouped(runs, measures).items():
        for path in those[0].spectra:
            share = [m.spectra[path] / np.maximum(m.spectra[path][:, :1], 1e-30) for m in those]
            values = [one.mean(axis=0) for one in share]
            steps = range(1, len(values[0]) + 1)
            curves.append(Curve(f"{module_of(path)}, {name}", steps, values))
    return curves_plot(curves, x_label="number of the singular value", y_label="σ/σ₁")


def finding(shared: Sequence[Shared]) -> str:
    """One sentence on the comparison that the study is about."""
    first = [row for row in shared if "random" not in row.kind and row.directions == "1, 1"]
    return " ".join(
        f"{row.side} of {row.module}, {row.kind}: the top directions share {row.phi.mean:.3f}, by "
        f"chance {row.chance:.3f}."
        for row in first[:2]
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
AMPLIFICATION_COLUMNS = [
    Column("name", "adapters"),
    Column("module", "module"),
    Column("in_change", "in ΔW's", plus_minus(3)),
    Column("in_weight", "in W's own", plus_minus(2)),
    Column("in_random", "in random", plus_minus(3)),
    Column("by_chance", "by chance", plus_minus(3)),
    Column("over_chance", "ΔW's over chance", plus_minus(2)),
    Column("change_norm", "‖ΔW‖", plus_minus(2)),
    Column("factor", "amplification", plus_minus(2)),
]
RANK_COLUMNS = [
    Column("name", "adapters"),
    Column("module", "module"),
    Column("entropy_rank", "by entropy", plus_minus(2)),
    Column("energy_rank", "by energy", plus_minus(2)),
    Column("stable_rank", "stable", plus_minus(2)),
    Column("intruders", "intruders", plus_minus(2)),
]
