"""What every run writes at its end: results.json and report.html, and how to repeat it."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_jax.reports import html
from lora_jax.reports.page import Section, render_page, write_page
from lora_jax.reports.results import to_plain, write_results
from lora_jax.reports.versions import installed_versions

RESULTS = "results.json"
REPORT = "report.html"
OF_RUN = ("experiment", "finding", "command", "seeds", "config", "versions")
"""Fields of results.json that are no results: what was run, and what came out in words."""


def write_report(
    workdir: Path,
    experiment: str,
    config: Mapping[str, Any],
    results: Mapping[str, Any],
    *,
    title: str,
    sections: Sequence[Section],
    lead: str = "",
    finding: str = "",
) -> None:
    """Write results.json and report.html of a run.

    Beside the results, results.json has the fields "experiment", "finding" (if there is one),
    "command", "seeds", "config" and "versions"; the page ends with how to repeat it.

    Args:
      workdir: The directory of the run.
      experiment: Its name, as in `python -m experiments.NAME`.
      config: The whole configuration.
      results: What came out; see `write_results` for what it may hold.
      title: Of the page.
      sections: Its parts but the last.
      lead: What was done, in a sentence or two.
      finding: What came out, in a sentence or two.

    Raises:
      TypeError: If a result is of a kind that JSON cannot hold.
      ValueError: If a result has the name of a field that is added.
      OSError: If a file cannot be written.
    """
    if taken := set(OF_RUN) & set(results):
        raise ValueError(f"{sorted(taken)} of the results are written by write_report itself")
    versions, line = installed_versions(), command_line(experiment)
    seeds, config = seeds_of(config), to_plain(config, "config")
    about = {"command": line, "seeds": seeds, "config": config, "versions": versions}
    said = {"finding": finding} if finding else {}
    write_results(workdir / RESULTS, {"experiment": experiment, **said, **results, **about})
    last = repeat_section(line, seeds, config, versions)
    page = render_page(title, [*sections, last], lead=lead, finding=finding)
    write_page(workdir / REPORT, page)


def repeat_section(
    command: str, seeds: Sequence[int], config: Mapping[str, Any], versions: Mapping[str, str]
) -> Section:
    """Say how to repeat a run: the command, the seeds, the versions, and the whole configuration.

    Args:
      command: What was typed, from `command_line`.
      seeds: Of all that was drawn.
      config: The configuration.
      versions: Of the software and the machine, from `installed_versions`.

    Returns:
      The last section of a page.
    """
    named = ", ".join(map(str, seeds)) or "none: nothing is drawn"
    pieces = [
        html.command(command),
        html.fields({"seeds": named, **versions}),
        html.settings(config),
    ]
    return Section("How to repeat it", pieces)


def command_line(experiment: str) -> str:
    """Write the command of this process as one would type it."""
    return shlex.join(["python", "-m", f"experiments.{experiment}", *sys.argv[1:]])


def seeds_of(config: Mapping[str, Any]) -> list[int]:
    """Find the seeds of a run in its configuration: `seeds`, or `seed`, or none.

    >>> seeds_of({"seeds": (0, 1)}), seeds_of({"seed": 3}), seeds_of({})
    ([0, 1], [3], [])
    """
    if "seeds" in config:
        return list(config["seeds"])
    return [config["seed"]] if "seed" in config else []
