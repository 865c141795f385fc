"""What `subspace` leaves: phi.npz and results.json for programs, report.html for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from experiments.subspace_measures import Grid, Measures
from experiments.subspace_shared import finding, module_of, shared_section, summarize
from lora_jax import reports
from lora_jax.evaluation import mean_interval
from lora_jax.reports import Column, Curve, Section, curves_plot, html, plus_minus, published_rows

if TYPE_CHECKING:
    from experiments.subspace import Run

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
TABLE_7 = (
    ("r = 4", "Wq", 0.32, 21.67, 0.02, None, None, 6.91, 21.5),
    ("r = 64", "Wq", 1.90, 37.71, 0.33, None, None, 3.57, 1.88),
)


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
    source = "Hu et al. 2021, table 7, GPT-3 175B"
    published = published_rows(source, AMPLIFICATION_COLUMNS, TABLE_7)
    sections = [
        *adapter_section(runs),
        shared_section(grids, shared),
        Section(
            "W in the directions of ΔW",
            [
                html.table([*amplified, *published], AMPLIFICATION_COLUMNS),
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
