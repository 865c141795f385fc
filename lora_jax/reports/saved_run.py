"""A finished run read back from its directory: what was run, what came out, what was predicted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lora_jax.evaluation.intervals import Interval, mean_interval
from lora_jax.reports.results import read_results, write_results
from lora_jax.reports.run import OF_RUN, RESULTS
from lora_jax.training.workdir import CONFIG

PREDICTIONS = "predictions.json"


class Value(NamedTuple):
    """One number of a run's results.

    Attributes:
      interval: the number, and its interval if it has one.
      scores: of each seed, in the order of the run's seeds; empty where only the number is known.
    """

    interval: Interval
    scores: tuple[float, ...] = ()


class Predictions(NamedTuple):
    """What a run predicted for each test example.

    Attributes:
      metrics: keys of `evaluation.METRICS` that score them.
      predictions: a label, a score or a text for each example.
      references: what is right: a label, a score, or the texts that are.
    """

    metrics: Sequence[str]
    predictions: Sequence[Any]
    references: Sequence[Any]


class SavedRun(NamedTuple):
    """A finished run.

    Attributes:
      directory: where it is.
      experiment: its name, as in `python -m experiments.NAME`.
      config: all of it.
      seeds: of all that was drawn.
      values: name -> number, of everything in the results that is one.
      predictions: None where the run kept none.
    """

    directory: Path
    experiment: str
    config: Mapping[str, Any]
    seeds: tuple[int, ...]
    values: Mapping[str, Value]
    predictions: Predictions | None


def write_predictions(
    workdir: Path,
    metrics: Sequence[str],
    predictions: Sequence[Any] | np.ndarray,
    references: Sequence[Any] | np.ndarray,
) -> None:
    """Writes predictions.json, by which two runs can be compared example by example.

    Args:
      workdir: the directory of the run.
      metrics: keys of `evaluation.METRICS` that score the predictions.
      predictions: a label, a score or a text for each example.
      references: what is right: a label, a score, or the texts that are.
    """
    made = {"metrics": metrics, "predictions": predictions, "references": references}
    write_results(workdir / PREDICTIONS, made)


def read_run(directory: Path) -> SavedRun:
    """Reads a run.

    Args:
      directory: the workdir of the run.

    Returns:
      What it left.

    Raises:
      FileNotFoundError: there is no such directory.
      ValueError: it is no run's, or the run is unfinished, or its results do not say of which
        experiment they are.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no directory {directory}")
    if not (directory / RESULTS).is_file():
        if (directory / CONFIG).is_file():
            raise ValueError(
                f"{directory} is an unfinished run: it has a {CONFIG} and no {RESULTS}; the same "
                "command that began it goes on"
            )
        raise ValueError(f"{directory} is no run: it has neither {CONFIG} nor {RESULTS}")
    results = read_results(directory / RESULTS)
    if missing := [name for name in ("experiment", "config") if name not in results]:
        raise ValueError(
            f"{directory / RESULTS} lacks {' and '.join(missing)}: it is of no experiment, or of "
            "an older version; run it again into a new directory"
        )
    seeds = tuple(results.get("seeds", ()))
    found = {name: value for name, value in results.items() if name not in OF_RUN}
    values = dict(_values(found, len(seeds)))
    made = _read_predictions(directory / PREDICTIONS)
    return SavedRun(directory, results["experiment"], results["config"], seeds, values, made)


def _read_predictions(path: Path) -> Predictions | None:
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return Predictions(*(found[name] for name in Predictions._fields))


def _values(found: Any, seeds: int, name: str = "") -> Iterator[tuple[str, Value]]:
    """Finds the numbers of nested results, and names them by their places."""
    if _is_number(found):
        yield name, Value(Interval(float(found), math.nan, math.nan))
    elif isinstance(found, Mapping):
        yield from _values_of_record(found, seeds, name)
    elif isinstance(found, list):
        named = [item for item in found if isinstance(item, Mapping) and "name" in item]
        for item in named:
            yield from _values_of_record(item, seeds, _join(name, str(item["name"])))


def _values_of_record(
    found: Mapping[str, Any], seeds: int, name: str
) -> Iterator[tuple[str, Value]]:
    if set(found) == set(Interval._fields):
        if found["mean"] is not None:
            ends = (math.nan if end is None else end for end in (found["low"], found["high"]))
            yield name, Value(Interval(found["mean"], *ends))
        return
    scores = found.get("scores")
    has_scores = isinstance(scores, list) and scores and all(map(_is_number, scores))
    for key, value in found.items():
        if not (key in ("name", "scores") or (has_scores and key == "score")):
            yield from _values(value, seeds, _join(name, key))
    if isinstance(scores, list) and has_scores:
        of_seeds = tuple(map(float, scores)) if len(scores) == seeds else ()
        yield _join(name, "score"), Value(mean_interval(scores), of_seeds)


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
