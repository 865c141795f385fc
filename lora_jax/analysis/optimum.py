"""The best learning rate of a grid: the lowest loss, or a parabola with a bootstrap over seeds."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lora_jax.evaluation import Interval


class Optimum(NamedTuple):
    """Where a loss is lowest.

    Attributes:
      rate: the learning rate, and the ends of its 95 % interval over resampled seeds.
      at_edge: whether the lowest loss is that of the first or the last rate of the grid: the
        optimum may then lie beyond, and the interval does not say so.
    """

    rate: Interval
    at_edge: bool


def choose_rate(losses: Mapping[float, Sequence[float]]) -> float:
    """Chooses the learning rate of the lowest mean loss.

    Args:
      losses: of the runs at each rate; nan of one that diverged, which rules the rate out.

    Returns:
      The rate; the first where all are ruled out.

    Raises:
      ValueError: there is none.

    >>> choose_rate({1e-3: [0.7, 0.8], 1e-2: [0.6, 0.7], 1e-1: [0.1, float("nan")]})
    0.01
    """
    if not losses:
        raise ValueError("there is no learning rate to choose from")
    means = [np.mean(own) for own in losses.values()]
    return list(losses)[int(np.argmin(np.nan_to_num(means, nan=np.inf)))]


def fit_optimum(
    rates: Sequence[float],
    losses: Float[np.ndarray, "seeds rates"],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Optimum:
    """Finds the learning rate of the lowest loss.

    Args:
      rates: of the grid, at least three, rising.
      losses: of each seed at each rate; nan where a run diverged, which rules the rate out.
      resamples: how often seeds are drawn with replacement, for the interval.
      seed: of the draws.

    Returns:
      The vertex of the parabola in log(rate) through the lowest mean loss and its two neighbours.

    Raises:
      ValueError: fewer than three rates, or not rising; no column of losses for each; or all
        diverged.

    >>> losses = np.array([[1.0, 0.5, 1.0], [1.2, 0.7, 1.2]])
    >>> round(fit_optimum([1e-3, 1e-2, 1e-1], losses).rate.mean, 4)
    0.01
    """
    _check(rates, losses)
    draws = _draws(len(losses), resamples, seed)
    vertices = [_vertex(rates, losses[rows]) for rows in draws]
    low, high = np.quantile(vertices, (0.025, 0.975))
    means = losses.mean(axis=0)
    lowest = int(np.nanargmin(means))
    edge = lowest in (0, len(rates) - 1)
    return Optimum(Interval(_vertex(rates, losses), float(low), float(high)), edge)


def optimum_ratio(
    first: tuple[Sequence[float], Float[np.ndarray, "seeds rates"]],
    second: tuple[Sequence[float], Float[np.ndarray, "others rates_of_second"]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The best rate of one grid over that of another, with the same seeds drawn for both.

    Args:
      first: the rates of a grid and its losses, as in `fit_optimum`.
      second: those of the other; as many seeds.
      resamples: how often seeds are drawn with replacement.
      seed: of the draws.

    Returns:
      The ratio and its 95 % interval.

    Raises:
      ValueError: as in `fit_optimum`, or different numbers of seeds.
    """
    for rates, losses in (first, second):
        _check(rates, losses)
    if len(first[1]) != len(second[1]):
        raise ValueError(f"{len(first[1])} seeds of one grid, {len(second[1])} of the other")
    ratio = lambda rows: _vertex(first[0], first[1][rows]) / _vertex(second[0], second[1][rows])
    draws = _draws(len(first[1]), resamples, seed)
    low, high = np.quantile([ratio(rows) for rows in draws], (0.025, 0.975))
    return Interval(ratio(np.arange(len(first[1]))), float(low), float(high))


def early_spread(curves: Mapping[str, Float[np.ndarray, "seeds steps"]], steps: int) -> float:
    """How far learning curves lie apart at first, such as those of several ranks at one rate.

    Args:
      curves: training losses of each, at the same steps and of the same seeds.
      steps: of the beginning.

    Returns:
      The largest difference of two mean curves within these steps, in units of the loss.
    """
    means = np.stack([curve.mean(axis=0)[:steps] for curve in curves.values()])
    return float(np.ptp(means, axis=0).max())


def _check(rates: Sequence[float], losses: np.ndarray) -> None:
    if len(rates) < 3 or np.any(np.diff(rates) <= 0):
        raise ValueError(f"rates {list(rates)}: name at least three, the lowest first")
    if losses.ndim != 2 or losses.shape[1] != len(rates):
        raise ValueError(f"losses of the shape {losses.shape} for {len(rates)} rates")
    if np.isnan(losses.mean(axis=0)).all():
        raise ValueError("no rate has a finite loss with all seeds")


def _draws(count: int, resamples: int, seed: int) -> Int[np.ndarray, "resamples count"]:
    return np.random.default_rng(seed).integers(count, size=(resamples, count))


def _vertex(rates: Sequence[float], losses: np.ndarray) -> float:
    """The lowest point of the parabola around the lowest mean, within the grid."""
    means = losses.mean(axis=0)
    lowest = int(np.argmin(np.nan_to_num(means, nan=np.inf)))
    around = slice(max(lowest - 1, 0), lowest + 2)
    x, y = np.log(rates[around]), means[around]
    # At an edge of the grid, or beside a rate that diverged, there is no parabola.
    if len(x) < 3 or np.isnan(y).any():
        return float(rates[lowest])
    square, slope, _ = np.polyfit(x - x[1], y, 2)
    if square <= 0:
        return float(rates[lowest])
    return float(np.exp(np.clip(x[1] - slope / (2 * square), x[0], x[2])))
