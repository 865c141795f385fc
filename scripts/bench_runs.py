"""Makes every run of configs/ on real data, and prints the table of docs/runs.md.

    export LORA_JAX_DATA=DIR
    python scripts/bench_runs.py --workdir=runs            all of them, one after another
    python scripts/bench_runs.py --workdir=runs cola sroie

A run that is there already is taken as it is; its processor time is then unknown.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs import cocohd, glue, stories
from lora_jax.reports import installed_versions, read_results

ROOT = Path(__file__).parent.parent
RUNS = {
    **{run: ("finetune", f"configs/glue.py:{run}") for run in glue.RUNS},
    **{run: ("finetune", f"configs/cocohd.py:{run}") for run in cocohd.RUNS},
    "sroie_lines": ("finetune", "configs/sroie.py"),
    **{run: ("finetune_text", f"configs/stories.py:{run}") for run in stories.RUNS},
}
"""Name of a run -> its experiment and its config."""


def main() -> None:
    """Runs, and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("runs", nargs="*", choices=[*RUNS, []], default=list(RUNS))
    options = parser.parse_args()
    lines = [make(run, options.workdir / run) for run in options.runs]
    versions = installed_versions()
    print("| run | metric | at the start | at the end | steps | processor time |")
    print("|---|---|---|---|---|---|")
    print("\n".join(lines))
    print(f"\n{platform.processor() or platform.machine()}, JAX {versions['jax']}.")


def make(run: str, workdir: Path) -> str:
    """Makes a run if it is not there, and returns its row."""
    experiment, config = RUNS[run]
    seconds = None
    if not (workdir / "results.json").exists():
        before = processor_seconds()
        arguments = ["-m", f"experiments.{experiment}", f"--config={config}"]
        command = [sys.executable, *arguments, f"--workdir={workdir}"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
        seconds = processor_seconds() - before
    return row(config, read_results(workdir / "results.json"), seconds)


def processor_seconds() -> float:
    """Processor time of the processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(config: str, results: Mapping[str, Any], seconds: float | None) -> str:
    """A row of the table.

    >>> results = {"metric": "bleu", "start": {"bleu": {"mean": 0.1, "low": 0.0, "high": 0.2}}}
    >>> results |= {"end": {"bleu": {"mean": 7, "low": 6, "high": 8}}, "config": {"steps": 9}}
    >>> row("configs/a.py:b", results, 61.7)
    '| `configs/a.py:b` | bleu | 0.100 [0.000, 0.200] | 7.000 [6.000, 8.000] | 9 | 62 s |'
    """
    metric, start, end = scores(results)
    time = "" if seconds is None else f"{seconds:.0f} s"
    steps = results["config"]["steps"]
    return f"| `{config}` | {metric} | {written(start)} | {written(end)} | {steps} | {time} |"


def scores(results: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """The metric of a run, before and after it."""
    if "start" in results:
        metric = results["metric"]
        return metric, results["start"][metric], results["end"][metric]
    metric = next(name for name in results if name.startswith("start_")).removeprefix("start_")
    return metric, results[f"start_{metric}"], results[metric]


def written(score: Any) -> str:
    """A value, and its interval if it has one; – where it is undefined."""
    if isinstance(score, Mapping):
        ends = "" if score["low"] is None else f" [{score['low']:.3f}, {score['high']:.3f}]"
        return written(score["mean"]) + ends
    return "–" if score is None else f"{score:.3f}"


if __name__ == "__main__":
    main()
