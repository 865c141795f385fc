"""A score over a setting such as the rank or the learning rate, with intervals over seeds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from lora_jax.evaluation.intervals import Interval, mean_interval
from lora_jax.reports.drawing import color_of, new_axes, new_panels, set_log_x, styled, to_svg


class Series(NamedTuple):
    """A score at several values of a setting."""

    name: str
    x: Sequence[float]
    y: Sequence[float | Interval | Sequence[float]]
    """One at each x: a number, an interval, or the scores of all seeds; nan where it diverged."""
    is_published: bool = False
    """Not measured here: drawn dashed and hollow, and named so in the legend."""


class SeriesPanel(NamedTuple):
    """Some series of one task or one learning rate, beside other panels."""

    title: str
    series: Sequence[Series]


def series_plot(series: Sequence[Series], *, x_label: str, y_label: str, log_x: bool = True) -> str:
    """Plot scores over a setting, with 95 % intervals of the mean where there are several seeds.

    Args:
      series: What to draw, at least one.
      x_label: The setting, such as "rank".
      y_label: What the score is.
      log_x: Whether equal factors, not equal steps, lie equally far apart.

    Returns:
      An <svg> element.

    Raises:
      ValueError: If there is nothing to draw, x and y differ in number, or x is not positive on a
        logarithmic axis.
    """
    return series_panels([SeriesPanel("", series)], x_label=x_label, y_label=y_label, log_x=log_x)


def series_panels(
    panels: Sequence[SeriesPanel],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = True,
    columns: int = 2,
) -> str:
    """Plot several groups of series side by side; those of one name have the same colour.

    Args:
      panels: At least one.
      x_label: The setting, such as "rank".
      y_label: What the score is.
      log_x: Whether equal factors, not equal steps, lie equally far apart.
      columns: Panels in a row, at most.

    Returns:
      An <svg> element.

    Raises:
      ValueError: See `series_plot`.
    """
    if not any(panel.series for panel in panels):
        raise ValueError("nothing to plot: there is no series")
    names = dict.fromkeys(one.name for panel in panels for one in panel.series)
    colors = {name: color_of(index) for index, name in enumerate(names)}
    with styled():
        if len(panels) == 1:
            figure, axes = new_axes(x_label, y_label)
            all_axes = [axes]
        else:
            figure, all_axes = new_panels(len(panels), columns, width=5.0, height=3.5)
        for panel, axes in zip(panels, all_axes, strict=True):
            axes.set(title=panel.title, xlabel=x_label, ylabel=y_label)
            if log_x:
                set_log_x(axes, [float(x) for one in panel.series for x in one.x])
            for index, one in enumerate(panel.series):
                shift = index - (len(panel.series) - 1) / 2
                _draw_series(axes, one, colors[one.name], shift if log_x else 0.0, log_x)
            axes.legend(loc="best", fontsize="small")
        return to_svg(figure)


def _draw_series(axes: Axes, one: Series, color: str, shift: float, log_x: bool) -> None:
    if len(one.x) != len(one.y):
        raise ValueError(f"{one.name}: {len(one.y)} values at {len(one.x)} places")
    x = np.asarray(one.x, np.float64)
    if log_x and not (x > 0).all():
        raise ValueError(f"{one.name}: {x.min():g} has no place on a logarithmic axis")
    points = [_as_interval(value) for value in one.y]
    means = np.array([point.mean for point in points])
    bars = np.nan_to_num([[p.mean - p.low for p in points], [p.high - p.mean for p in points]])
    axes.errorbar(
        x * 1.012**shift,  # bars of different series must not cover each other
        means,
        yerr=bars,
        fmt="--D" if one.is_published else "-o",
        markersize=4.5,
        markerfacecolor="none" if one.is_published else color,
        color=color,
        linewidth=1.6,
        elinewidth=1,
        capsize=2.5,
        label=f"{one.name} (published)" if one.is_published else one.name,
    )


def _as_interval(value: float | Interval | Sequence[float]) -> Interval:
    if isinstance(value, Interval):
        return value
    return mean_interval(np.atleast_1d(np.asarray(value, np.float64)).tolist())
