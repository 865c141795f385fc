"""Heat maps: a matrix for each layer and module, all on one scale."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.ticker import FixedLocator

from lora_jax.reports.drawing import new_panels, styled, to_svg

MOST_NUMBERS = 100  # cells whose numbers can still be read


class HeatMap(NamedTuple):
    """A matrix and what it is of."""

    title: str
    values: Float[np.ndarray, "rows columns"]
    """nan where there is nothing to show."""
    row_names: Sequence[str] = ()
    """Of each row, from the top; the numbers from 1 by default."""
    column_names: Sequence[str] = ()


def heat_maps_plot(
    maps: Sequence[HeatMap],
    *,
    x_label: str,
    y_label: str,
    value_label: str,
    low: float | None = None,
    high: float | None = None,
    columns: int = 4,
) -> str:
    """Plot matrices side by side with one colour bar.

    Where the scale has negative values, zero is the pale middle. Small matrices show their numbers.

    Args:
      maps: At least one, row by row of the figure.
      x_label: What the columns of a matrix are.
      y_label: What the rows are.
      value_label: What the values are, beside the colour bar.
      low: The lowest value of the scale; the lowest of all by default.
      high: The highest.
      columns: Maps in a row, at most.

    Returns:
      An <svg> element; the cells are a PNG inside it.

    Raises:
      ValueError: If there is no map, one is no matrix, or its names are not as many as its rows or
        columns.
    """
    if not maps:
        raise ValueError("nothing to plot: there is no map")
    for map_ in maps:
        _check(map_)
    norm, colors = _scale(maps, low, high)
    width = 2.6 if len(maps) > 1 else 6.0
    with styled():
        figure, all_axes = new_panels(len(maps), columns, width=width, height=_height(maps, width))
        for map_, axes in zip(maps, all_axes, strict=True):
            image = axes.imshow(map_.values, norm=norm, cmap=colors, aspect="auto")
            axes.set_title(map_.title, fontsize="small")
            _name_cells(axes, map_)
            axes.grid(visible=False)
            if map_.values.size * len(maps) <= MOST_NUMBERS:
                _write_numbers(axes, map_.values, norm)
        figure.supxlabel(x_label, fontsize="medium")
        figure.supylabel(y_label, fontsize="medium")
        bar = figure.colorbar(image, ax=all_axes, label=value_label, shrink=0.8, pad=0.02)
        bar.outline.set_visible(False)
        return to_svg(figure)


def _check(map_: HeatMap) -> None:
    shape = np.shape(map_.values)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"{map_.title}: a heat map shows a matrix, not an array of shape {shape}")
    for names, count, what in zip(
        (map_.row_names, map_.column_names), shape, ("rows", "columns"), strict=True
    ):
        if names and len(names) != count:
            raise ValueError(f"{map_.title}: {len(names)} names for {count} {what}")


def _scale(maps: Sequence[HeatMap], low: float | None, high: float | None) -> tuple[Normalize, str]:
    values = np.concatenate([np.ravel(map_.values) for map_ in maps])
    known = values[np.isfinite(values)]
    low = float(known.min(initial=np.inf)) if low is None else low
    high = float(known.max(initial=-np.inf)) if high is None else high
    low, high = (low, high) if np.isfinite([low, high]).all() else (0.0, 1.0)
    if low < 0 < high:
        return TwoSlopeNorm(0.0, low, high), "RdBu_r"
    return Normalize(low, high), "viridis"


def _height(maps: Sequence[HeatMap], width: float) -> float:
    rows, columns = maps[0].values.shape
    # Square cells where that gives a readable shape.
    return float(np.clip(width * rows / columns, 0.5 * width, 0.9 * width)) + 0.6


def _name_cells(axes: Axes, map_: HeatMap) -> None:
    for axis, names, count in (
        (axes.yaxis, map_.row_names, map_.values.shape[0]),
        (axes.xaxis, map_.column_names, map_.values.shape[1]),
    ):
        numbers = (
            range(1, count + 1) if count <= 8 else [1, *(count * i // 4 for i in (1, 2, 3, 4))]
        )
        places = range(count) if names else [number - 1 for number in numbers]
        axis.set_major_locator(FixedLocator(list(places)))
        axis.set_ticklabels(list(names) or [str(number) for number in numbers])
    axes.tick_params(labelsize="small", length=2)
    if any(len(name) > 6 for name in map_.column_names):
        axes.tick_params(axis="x", rotation=35)


def _write_numbers(axes: Axes, values: Any, norm: Normalize) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            shade = float(norm(value))
            # Dark on pale cells, which are the middle of one map and the top of the other.
            is_pale = abs(shade - 0.5) < 0.3 if isinstance(norm, TwoSlopeNorm) else shade > 0.6
            color = "#1d2329" if is_pale else "#ffffff"
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color
            )
