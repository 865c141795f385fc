"""What `plan` leaves: tables in the terminal, results.json and report.html."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from rich.console import Console

from lora_jax.analysis.collectives import Collective, largest, traffic
from lora_jax.analysis.memory import Memory
from lora_jax.analysis.products import Products
from lora_jax.analysis.roofline import Roofline
from lora_jax.reports import (
    Column,
    Section,
    html,
    print_table,
    render_page,
    write_page,
    write_results,
)
from lora_jax.training import versions

MEMORY_NOTE = (
    "Exact: frozen, trained, optimiser, batch. Temporaries are laid out by the compiler for CPU; "
    "an accelerator keeps bfloat16 narrow and fuses more, so it should need less."
)
TIME_NOTE = (
    "At published peaks, which no program reaches: a bound from below. What is done at the same "
    "time, all of it or nothing, decides between the last two times. Devices are joined in the "
    "order of the mesh."
)


class StepPlan(NamedTuple):
    """What a training step takes.

    Attributes:
      title: what is trained.
      mesh: sizes of the axes.
      rows: of a batch, over all devices.
      length: tokens of a row.
      trainable: parameters that train.
      frozen: parameters that do not.
      adapter_bytes: what the factors take as a file.
      checkpoint_bytes: what a checkpoint of the run takes: what trains, and the optimiser's state.
      memory: on one device.
      flops: operations of all matrix products in the whole step.
      work: the matrix products of one device.
      collectives: of one device.
      rooflines: the time of a step, by chip.
      unknown_loops: loops whose bodies could only be counted once.
      compile_seconds: how long tracing and compiling took.
    """

    title: str
    mesh: Mapping[str, int]
    rows: int
    length: int
    trainable: int
    frozen: int
    adapter_bytes: int
    checkpoint_bytes: int
    memory: Memory
    flops: int
    work: Products
    collectives: Sequence[Collective]
    rooflines: Sequence[Roofline]
    unknown_loops: Sequence[str]
    compile_seconds: float

    @property
    def devices(self) -> int:
        """How many devices the mesh has."""
        return math.prod(self.mesh.values())


def print_plan(console: Console, plan: StepPlan) -> None:
    """Prints the plan."""
    for line in summary(plan):
        console.print(line, markup=False)
    for title, rows, columns, note in tables(plan):
        console.print()
        if rows:
            print_table(rows, columns, title=title, console=console)
        console.print(note, style="dim", markup=False)


def summary(plan: StepPlan) -> list[str]:
    """The plan in a few lines."""
    mesh = " x ".join(f"{name}={size}" for name, size in plan.mesh.items())
    useful = plan.flops / (plan.devices * plan.work.flops) if plan.work.flops else 1.0
    lines = [
        f"{plan.title}: {plan.rows} x {plan.length:,} tokens a step, on {plan.devices} devices "
        f"({mesh})",
        f"parameters: {plan.trainable:,} trainable ({millions(plan.trainable)}), "
        f"{plan.frozen:,} frozen",
        f"checkpoint: {size_of(plan.checkpoint_bytes)} with the optimiser's state; the adapter "
        f"alone {size_of(plan.adapter_bytes)}",
        f"matrix products: {plan.flops:.3e} FLOP a step, {plan.work.flops:.3e} on each device "
        f"({useful:.0%} of which no other device does too)",
        f"compiled in {plan.compile_seconds:.1f} s",
    ]
    if plan.unknown_loops:
        lines.append(f"counted once, as they end by their data: {', '.join(plan.unknown_loops)}")
    return lines


def tables(plan: StepPlan) -> list[tuple[str, Sequence[Any], list[Column], str]]:
    """Title, rows, columns and note of each table."""
    amount = Column("nbytes", "bytes", size_of)
    gathered = largest(plan.collectives)
    sent = "No collectives: the devices work alone."
    if plan.collectives:
        sent = (
            "Bytes are those of whole arrays; sent is what each device sends if they form a ring."
        )
    if gathered is not None:
        sent += (
            f" The largest all-gather makes {gathered.dtype}{list(gathered.shape)}, "
            f"{size_of(gathered.nbytes)}, {gathered.times} times a step."
        )
    return [
        (
            "Memory of each device",
            memory_rows(plan.memory),
            [Column("part", "part"), amount],
            MEMORY_NOTE,
        ),
        (
            "Collectives of a step",
            traffic(plan.collectives),
            [
                Column("kind", "kind"),
                Column("calls", "calls", "{:,}"),
                amount,
                Column("sent", "sent", size_of),
            ],
            sent,
        ),
        (
            "Time of a step",
            plan.rooflines,
            [
                Column("chip", "chip"),
                Column("compute", "compute", seconds_of),
                Column("memory", "memory", seconds_of),
                Column("interconnect", "interconnect", seconds_of),
                Column("seconds", "all at once", seconds_of),
                Column("unoverlapped", "in turn", seconds_of),
                Column("bound", "bound by"),
                Column("used", "memory used", "{:.0%}"),
            ],
            TIME_NOTE,
        ),
    ]


def memory_rows(memory: Memory) -> list[dict[str, Any]]:
    """The parts of a device's memory, from what stays to what is passing."""
    parts = {
        "frozen weights": memory.frozen,
        "trained": memory.trained,
        "optimiser": memory.optimizer,
        "batch": memory.batch,
        "temporaries": memory.temporaries,
        "· gradients": memory.gradients,
        "· kept by scanned layers": memory.kept,
        "peak": memory.peak,
    }
    return [{"part": part, "nbytes": nbytes} for part, nbytes in parts.items()]


def write_report(workdir: Path, config: ConfigDict, plan: StepPlan) -> None:
    """Writes results.json and report.html."""
    made = versions()
    results = plan._asdict() | {"devices": plan.devices}
    results["collectives"] = traffic(plan.collectives)
    results["largest_all_gather"] = largest(plan.collectives)
    write_results(
        workdir / "results.json", {**results, "config": config.to_dict(), "versions": made}
    )
    first, *rest = summary(plan)
    sections = [
        Section(title, [html.table(rows, columns), html.paragraph(note)])
        for title, rows, columns, note in tables(plan)
    ]
    repeat = shlex.join(["python", "-m", "experiments.plan", *sys.argv[1:]])
    pieces = [html.command(repeat), html.settings(config.to_dict()), html.fields(made)]
    page = render_page(
        f"Plan: {plan.title}",
        [
            Section("In short", [html.paragraph(line) for line in rest]),
            *sections,
            Section("How to repeat it", pieces),
        ],
        lead=first,
    )
    write_page(workdir / "report.html", page)


def size_of(nbytes: float) -> str:
    """Bytes as a person reads them, in powers of 1000, as makers of chips count.

    >>> size_of(37_748_736)
    '37.7 MB'
    """
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    power = 0
    while nbytes >= 1000 and power < len(units) - 1:
        nbytes, power = nbytes / 1000, power + 1
    return f"{nbytes:.0f} B" if power == 0 else f"{nbytes:.1f} {units[power]}"


def seconds_of(seconds: float) -> str:
    """A time as a person reads it.

    >>> seconds_of(0.0123), seconds_of(12e-6)
    ('12.3 ms', '12 µs')
    """
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{1000 * seconds:.1f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.0f} µs"


def millions(count: int) -> str:
    """A number of parameters as papers give it.

    >>> millions(18_874_368)
    '18.9 M'
    """
    return f"{count / 1e6:.1f} M"
