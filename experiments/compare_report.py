"""What a comparison of runs leaves: tables in the terminal, results.json and report.html."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from lora_jax.evaluation import Interval
from lora_jax.reports import (
    Bar,
    Column,
    Section,
    html,
    intervals_plot,
    print_table,
    write_report,
)
from lora_jax.reports.saved_run import SavedRun
from lora_jax.reports.tables import plus_minus

SURE = 0.05  # a corrected p-value below it counts as a difference
MOST_PLOTS = 8

SCORES = (
    "± is half the 95 % interval: over the seeds where a row has several, or as the run itself "
    "found it."
)
TESTS = (
    "Each row is a run less the first one, {first}. Scores of the same seeds are compared in "
    "pairs, by Student's t and, with no assumption on their distribution, by Wilcoxon's signed "
    "ranks; scores of different seeds by Welch's test. The bootstrap draws the test examples 1,000 "
    "times and scores both runs on each draw: it tells what other test examples would do, not "
    "other seeds. The last column corrects p for the number of rows (Holm): below {sure} a "
    "difference counts as one. With five pairs Wilcoxon's p cannot be below 0.0625."
)


class Group(NamedTuple):
    """Runs that differ in their seed alone."""

    name: str
    runs: Sequence[SavedRun]

    @property
    def seeds(self) -> list[int]:
        """Of all its runs."""
        return [seed for run in self.runs for seed in run.seeds]


class Test(NamedTuple):
    """A group of runs against the first.

    Attributes:
      metric: what is compared.
      name: of the group.
      method: of the test, and over how much.
      difference: this group less the first, with its 95 % interval.
      p: that there is none.
      p_wilcoxon: the same by signed ranks; nan where there are no pairs of seeds.
      p_holm: `p`, corrected for the number of tests.
    """

    metric: str
    name: str
    method: str
    difference: Interval
    p: float
    p_wilcoxon: float
    p_holm: float = math.nan


class Comparison(NamedTuple):
    """All that was found.

    Attributes:
      experiment: of all runs.
      groups: the first is what the others are compared with.
      intervals: metric -> its value in each group; None where it has none.
      settings: setting -> its value in each group, where not all are the same.
      tests: of the others against the first.
    """

    experiment: str
    groups: Sequence[Group]
    intervals: Mapping[str, Sequence[Interval | None]]
    settings: Mapping[str, Sequence[Any]]
    tests: Sequence[Test]


def print_comparison(console: Console, found: Comparison) -> None:
    """Prints the tables."""
    print_table(*score_table(found), title="Scores", console=console)
    if found.settings:
        print_table(*setting_table(found), title="Settings that differ", console=console)
    if found.tests:
        title = f"Less {found.groups[0].name}"
        print_table(found.tests, TEST_COLUMNS, title=title, console=console)
    console.print(finding(found), markup=False)


def score_table(found: Comparison) -> tuple[list[dict[str, Any]], list[Column]]:
    """Rows and columns: a group a row, a metric a column."""
    rows = [
        {
            "name": group.name,
            "seeds": ", ".join(map(str, group.seeds)) or None,
            **{metric: values[index] for metric, values in found.intervals.items()},
        }
        for index, group in enumerate(found.groups)
    ]
    columns = [Column("name", "run"), Column("seeds", "seeds")]
    return rows, columns + [Column(name, name, plus_minus(4)) for name in found.intervals]


def setting_table(found: Comparison) -> tuple[list[dict[str, Any]], list[Column]]:
    """Rows and columns: a setting a row, a group a column."""
    rows = [
        {"setting": name, **{f"{index}": str(value) for index, value in enumerate(values)}}
        for name, values in found.settings.items()
    ]
    groups = [Column(str(index), group.name) for index, group in enumerate(found.groups)]
    return rows, [Column("setting", "setting"), *groups]


def write_p(p: float) -> str:
    """Writes a p-value.

    >>> write_p(0.0004), write_p(0.0312), write_p(float("nan"))
    ('< 0.001', '0.031', '–')
    """
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


TEST_COLUMNS = [
    Column("name", "run"),
    Column("metric", "metric"),
    Column("method", "test"),
    Column("difference", "difference", plus_minus(4)),
    Column("p", "p", write_p),
    Column("p_wilcoxon", "p (Wilcoxon)", write_p),
    Column("p_holm", "p (Holm)", write_p),
]


def finding(found: Comparison) -> str:
    """Says in a sentence what can be told apart."""
    if not found.tests:
        return (
            "Nothing was tested: the runs share neither seeds, of which two are needed, nor test "
            "examples with predictions."
        )
    sure = [test for test in found.tests if test.p_holm < SURE]
    if not sure:
        return f"No difference from {found.groups[0].name} can be told from chance."
    told = "; ".join(
        f"{test.name} {test.metric} {test.difference.mean:+.4f} ({test.method})" for test in sure
    )
    return f"Beyond chance from {found.groups[0].name}: {told}."


def write_comparison(workdir: Path, config: Mapping[str, Any], found: Comparison) -> None:
    """Writes results.json and report.html."""
    results = {
        "compared": found.experiment,
        "runs": [
            {"name": group.name, "directories": [run.directory for run in group.runs]}
            | {"of_seeds": group.seeds}
            for group in found.groups
        ],
        "values": {
            metric: dict(zip((group.name for group in found.groups), values, strict=True))
            for metric, values in found.intervals.items()
        },
        "settings": found.settings,
        "tests": found.tests,
    }
    write_report(
        workdir,
        "compare",
        config,
        results,
        title=f"Runs of {found.experiment}, side by side",
        sections=list(_sections(found)),
        lead=", ".join(group.name for group in found.groups),
        finding=finding(found),
    )


def _sections(found: Comparison) -> Sequence[Section]:
    plots = [
        html.figure(_plot(found, metric), f"{metric}, with 95 % intervals.")
        for metric in list(found.intervals)[:MOST_PLOTS]
    ]
    sections = [
        Section("Scores", [html.table(*score_table(found)), html.paragraph(SCORES), *plots])
    ]
    if found.tests:
        notes = TESTS.format(first=found.groups[0].name, sure=SURE)
        pieces = [html.table(found.tests, TEST_COLUMNS), html.paragraph(notes)]
        sections.append(Section("Differences", pieces))
    table = html.table(*setting_table(found)) if found.settings else html.paragraph("None.")
    return [*sections, Section("Settings that differ", [table])]


def _plot(found: Comparison, metric: str) -> str:
    values = zip(found.groups, found.intervals[metric], strict=True)
    bars = [Bar(group.name, value) for group, value in values if value is not None]
    return intervals_plot(bars, x_label=metric, digits=4)
