"""Values with their intervals, one below the other: what differs, and by how much."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from lora_jax.evaluation.intervals import Interval
from lora_jax.reports.drawing import INK, color_of, new_axes, styled, to_svg


class Bar(NamedTuple):
    """A value with its interval."""

    name: str
    value: Interval | float
    group: str = ""
    """Values of one group share a colour, and the legend names it."""
    is_published: bool = False
    """Not measured here: drawn hollow, and named so."""


def intervals_plot(
    bars: Sequence[Bar], *, x_label: str, reference: float | None = None, digits: int = 3
) -> str:
    """Plot values as points with the bars of their intervals, from the top down.

    Args:
      bars: At least one. Those of the same name in a row stand on one line's height, so that groups
        can be compared.
      x_label: What the values are, with their unit.
      reference: Where to draw a vertical line, such as 0 for differences or the score of chance.
      digits: Of the numbers written beside the points.

    Returns:
      An <svg> element.

    Raises:
      ValueError: If there is no bar.
    """
    if not bars:
        raise ValueError("nothing to plot: there is no bar")
    groups = list(dict.fromkeys(bar.group for bar in bars))
    with styled():
        figure, axes = new_axes(x_label, "", height=1.1 + 0.34 * len(bars))
        if reference is not None:
            axes.axvline(reference, color=INK, alpha=0.5, linestyle="--", linewidth=1)
        for place, bar in enumerate(bars):
            _draw_bar(axes, place, bar, color_of(groups.index(bar.group)), digits)
        axes.set_yticks(range(len(bars)), [_name(bars, place) for place in range(len(bars))])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        if len(groups) > 1:
            handles = [
                axes.plot([], [], "o", color=color_of(index), label=group)[0]
                for index, group in enumerate(groups)
            ]
            figure.legend(handles=handles, loc="outside upper right", ncols=4, fontsize="small")
        return to_svg(figure)


def _draw_bar(axes: Axes, place: int, bar: Bar, color: str, digits: int) -> None:
    value = bar.value if isinstance(bar.value, Interval) else Interval(bar.value, np.nan, np.nan)
    ends = np.nan_to_num([[value.mean - value.low], [value.high - value.mean]])
    axes.errorbar(
        value.mean,
        place,
        xerr=ends,
        fmt="D" if bar.is_published else "o",
        markersize=5.5,
        markerfacecolor="none" if bar.is_published else color,
        color=color,
        elinewidth=1.4,
        capsize=3,
    )
    axes.annotate(
        f"{value.mean:.{digits}f}",
        (value.mean + ends[1][0], place),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize="small",
    )


def _name(bars: Sequence[Bar], place: int) -> str:
    bar = bars[place]
    if place and bars[place - 1].name == bar.name and bars[place - 1].group != bar.group:
        return ""  # said by the line above
    return f"{bar.name} (published)" if bar.is_published else bar.name
