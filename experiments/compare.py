"""Finished runs side by side: their numbers, what differs in their settings, and paired tests.

    python -m experiments.compare runs/lora runs/dora runs/full --workdir=runs/comparison

The runs are of one experiment and on one task; the others are compared with the first. Runs that
differ in their seed alone count as one, with a score for each seed. Scores of the same seeds are
compared in pairs (Student's t and Wilcoxon), those of different seeds by Welch's test; and where
runs kept their predictions for the same test examples, these are drawn again and again (paired
bootstrap). All p-values are corrected for their number (Holm). Writes config.json, results.json and
report.html; without --workdir it only prints.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from experiments.compare_report import Comparison, Group, Test, print_comparison, write_comparison
from lora_jax import training
from lora_jax.data.names import known
from lora_jax.evaluation import METRICS, Interval, find_metric, mean_interval
from lora_jax.evaluation.bootstrap import bootstrap_difference
from lora_jax.evaluation.paired import holm, paired_difference, unpaired_difference
from lora_jax.reports.saved_run import SavedRun, read_run

# What is compared by default, if any of the numbers is called so.
TELLING = {*METRICS, "score", "loss", "perplexity"}
SEEDS = ("seed", "seeds")


class Scores(NamedTuple):
    """One number of the runs of a group.

    Attributes:
      interval: its mean, and the interval of that.
      by_seed: seed -> its score, where that is known.
    """

    interval: Interval
    by_seed: Mapping[int, float]


def main(directories: Sequence[Path], workdir: Path | None, metrics: Sequence[str] = ()) -> None:
    """Compares runs, prints what it finds, and writes a report."""
    console = Console(highlight=False, soft_wrap=True)
    check(directories, workdir)

    # ---- The runs, those that differ in their seed alone together
    runs = [read_run(directory) for directory in directories]
    check_comparable(runs)
    groups = group_by_config(runs)
    names = choose_metrics(runs, metrics)
    scores = {name: [gather(group, name) for group in groups] for name in names}

    # ---- The others against the first
    tests = corrected(
        [
            *(
                test
                for name in names
                for group, other in zip(groups[1:], scores[name][1:], strict=True)
                if (test := compare_seeds(name, group, scores[name][0], other))
            ),
            *(test for group in groups[1:] for test in compare_examples(groups[0], group, metrics)),
        ]
    )
    comparison = Comparison(
        experiment=runs[0].experiment,
        groups=groups,
        intervals={
            name: [None if found is None else found.interval for found in row]
            for name, row in scores.items()
        },
        settings=differing_settings(groups),
        tests=tests,
    )
    print_comparison(console, comparison)
    if workdir is not None:
        config = {"runs": [str(path) for path in directories], "metrics": list(metrics)}
        training.open_workdir(workdir, config)
        write_comparison(workdir, config, comparison)
        console.print(str(workdir / "report.html"), markup=False)


def check(directories: Sequence[Path], workdir: Path | None) -> None:
    """Refuses what is no comparison."""
    places = [path.resolve() for path in directories]
    if len(set(places)) < 2 or len(set(places)) < len(places):
        raise ValueError(
            f"a comparison needs two or more different directories, not "
            f"{', '.join(map(str, directories)) or 'none'}"
        )
    if workdir is not None and workdir.resolve() in places:
        raise ValueError(f"--workdir={workdir} is one of the runs: name another directory")


def check_comparable(runs: Sequence[SavedRun]) -> None:
    """Refuses runs of different experiments or on different tasks: their scores differ in kind."""
    first = runs[0]
    for run in runs[1:]:
        if run.experiment != first.experiment:
            raise ValueError(
                f"{first.directory} is a run of {first.experiment}, but {run.directory} of "
                f"{run.experiment}: only runs of one experiment can be compared"
            )
        if (ours := tasks_of(first)) != (theirs := tasks_of(run)):
            raise ValueError(
                f"{first.directory} is a run on {ours or 'no task'}, but {run.directory} on "
                f"{theirs or 'no task'}: only runs on one task can be compared"
            )


def tasks_of(run: SavedRun) -> str:
    """The names of a run's task, or tasks; empty where it names none."""
    task, tasks = run.config.get("task") or {}, run.config.get("tasks") or {}
    one = task.get("name", "") if isinstance(task, Mapping) else str(task)
    return ", ".join(filter(None, [one, *tasks]))


def group_by_config(runs: Sequence[SavedRun]) -> list[Group]:
    """Puts runs together that differ in their seed alone, each seed there once."""
    found: list[list[SavedRun]] = []
    for run in runs:
        for group in found:
            taken = {seed for member in group for seed in member.seeds}
            if without_seed(group[0]) == without_seed(run) and not taken & set(run.seeds):
                group.append(run)
                break
        else:
            found.append([run])
    names = [members[0].directory.name for members in found]
    if len(set(names)) < len(names):
        names = [str(members[0].directory) for members in found]
    return [Group(*pair) for pair in zip(names, found, strict=True)]


def without_seed(run: SavedRun) -> dict[str, Any]:
    """The configuration of a run but for its seeds."""
    return {name: value for name, value in run.config.items() if name not in SEEDS}


def choose_metrics(runs: Sequence[SavedRun], asked: Sequence[str]) -> list[str]:
    """The numbers to compare: those asked for, or those that tell of all that two runs have."""
    counts: dict[str, int] = {}
    for run in runs:
        for name in run.values:
            counts[name] = counts.get(name, 0) + 1
    shared = [name for name, count in counts.items() if count > 1]
    if not shared:
        have = "; ".join(f"{run.directory}: {', '.join(run.values) or 'none'}" for run in runs)
        raise ValueError(f"no two of the runs have a number in common; {have}")
    if asked:
        return [known(name, shared, "number of the runs") for name in asked]
    telling = [name for name in shared if name.rpartition(".")[2] in TELLING]
    return telling or shared


def gather(group: Group, name: str) -> Scores | None:
    """One number over the runs of a group; None where not all of them have it."""
    found = [(run, run.values[name]) for run in group.runs if name in run.values]
    if len(found) < len(group.runs):
        return None
    by_seed: dict[int, float] = {}
    for run, value in found:
        scores = value.scores or ((value.interval.mean,) if len(run.seeds) == 1 else ())
        by_seed |= dict(zip(run.seeds, scores, strict=False))
    if len(found) == 1:
        return Scores(found[0][1].interval, by_seed)
    return Scores(mean_interval([value.interval.mean for _, value in found]), by_seed)


def compare_seeds(
    name: str, group: Group, first: Scores | None, other: Scores | None
) -> Test | None:
    """Tests whether the mean over seeds differs from that of the first; None if nothing says so."""
    if first is None or other is None:
        return None
    shared = sorted(first.by_seed.keys() & other.by_seed.keys())
    if len(shared) > 1:
        pairs = ([scores.by_seed[seed] for seed in shared] for scores in (other, first))
        found = paired_difference(*pairs)
        return Test(
            name, group.name, f"t, {len(shared)} seeds", found.interval, found.p, found.p_wilcoxon
        )
    if min(len(first.by_seed), len(other.by_seed)) > 1:
        found = unpaired_difference(list(other.by_seed.values()), list(first.by_seed.values()))
        return Test(name, group.name, "Welch, other seeds", found.interval, found.p, math.nan)
    return None


def compare_examples(first: Group, other: Group, asked: Sequence[str]) -> list[Test]:
    """Tests metrics over the same test examples, which are drawn again and again."""
    made = [run.predictions for group in (first, other) for run in group.runs]
    kept = [one for one in made if one is not None]
    if len(kept) < len(made) or any(one.references != kept[0].references for one in kept):
        return []
    ours, theirs = kept[: len(first.runs)], kept[len(first.runs) :]
    texts = isinstance(kept[0].references[0], list)
    as_given = (lambda values: values) if texts else np.asarray
    references = as_given(kept[0].references)
    tests = []
    for name in kept[0].metrics:
        if asked and name not in {one.rpartition(".")[2] for one in asked}:
            continue
        interval, p = bootstrap_difference(
            find_metric(name),
            [as_given(one.predictions) for one in theirs],
            [as_given(one.predictions) for one in ours],
            references,
        )
        method = f"bootstrap, {len(references):,} examples"
        tests.append(Test(name, other.name, method, interval, p, math.nan))
    return tests


def corrected(tests: Sequence[Test]) -> list[Test]:
    """Corrects all p-values for their number."""
    by_holm = holm([test.p for test in tests])
    return [test._replace(p_holm=p) for test, p in zip(tests, by_holm, strict=True)]


def differing_settings(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Setting -> its value in each group, of the settings that are not the same in all."""
    flat = [flatten(without_seed(group.runs[0])) for group in groups]
    names = dict.fromkeys(name for one in flat for name in one)
    found = {name: [one.get(name) for one in flat] for name in names}
    return {
        name: values
        for name, values in found.items()
        if any(value != values[0] for value in values[1:])
    }


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Names nested settings by their places."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flatten(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="compare", description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", nargs="+", type=Path, help="Directories; the first is the baseline."
    )
    parser.add_argument("--workdir", type=Path, help="Where the report goes.")
    parser.add_argument("--metrics", default="", help="Which numbers, with commas between.")
    options = parser.parse_args()
    try:
        main(options.runs, options.workdir, tuple(filter(None, options.metrics.split(","))))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
