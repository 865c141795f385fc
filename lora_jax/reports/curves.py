"""Learning curves: a value over the steps of training."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from lora_jax.reports.drawing import color_of, new_axes, styled, to_svg


class Curve(NamedTuple):
    """A value over the steps of training, of one seed or of several."""

    name: str
    steps: Sequence[float]
    values: Sequence[float] | Sequence[Sequence[float]]
    """[steps], or [seeds, steps]."""


def metric_curve(
    rows: Sequence[Mapping[str, Any]], metric: str, start: float | None = None
) -> Curve:
    """Make the curve of a metric of a run.

    Args:
      rows: Of its metrics, as `training.Result.rows`; some may lack this one.
      metric: Such as "loss" or "eval/accuracy".
      start: Its value before the first step, if that is known.

    >>> metric_curve([{"step": 1, "loss": 2.0}, {"step": 2, "lr": 0.1}], "loss", start=3.0)
    Curve(name='loss', steps=[0, 1], values=[3.0, 2.0])
    """
    points = [] if start is None else [(0, start)]
    points += [(row["step"], row[metric]) for row in rows if row.get(metric) is not None]
    return Curve(metric, [step for step, _ in points], [value for _, value in points])


def curves_plot(
    curves: Sequence[Curve], *, x_label: str = "step", y_label: str = "loss", window: int = 1
) -> str:
    """Plot learning curves; of several seeds the mean, and a band from lowest to highest.

    Args:
      curves: What to draw, at least one.
      x_label: What the steps are.
      y_label: What the values are.
      window: Each point is the mean of so many values, at the last of their steps; say so in the
        caption. At most the number of steps.

    Returns:
      An <svg> element.

    Raises:
      ValueError: If there is no curve, or one has different numbers of steps and values.
    """
    if not curves:
        raise ValueError("nothing to plot: there is no curve")
    with styled():
        figure, axes = new_axes(x_label, y_label)
        for index, curve in enumerate(curves):
            _draw_curve(axes, curve, color_of(index), window)
        axes.legend(loc="best", fontsize="small")
        return to_svg(figure)


def _draw_curve(axes: Axes, curve: Curve, color: str, window: int) -> None:
    values = np.atleast_2d(np.asarray(curve.values, np.float64))
    if values.shape[1] != len(curve.steps):
        raise ValueError(f"{curve.name}: {values.shape[1]} values at {len(curve.steps)} steps")
    values = np.lib.stride_tricks.sliding_window_view(values, window, axis=1).mean(axis=-1)
    steps = curve.steps[window - 1 :]
    axes.plot(steps, values.mean(axis=0), color=color, linewidth=1.6, label=curve.name)
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
