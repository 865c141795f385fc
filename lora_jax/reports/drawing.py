"""What all plots share: fonts, colours, and SVG that takes the text colour of its page."""

import hashlib
import io
import re
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

INK = "#123456"
"""Stands for the page's text colour until the SVG is written."""
COLORS = (
    *("#4c8dd6", "#e8833a", "#3fa56b", "#d9534f", "#9a6fc4", "#b8862f", "#2fa7b5", "#8a8f98"),
    *("#d46fa8", "#7f9c33", "#6273d9", "#c4694a"),
)
"""Legible on white and on near-black."""
MOST_TICKS = 10

STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": "medium",
    "font.size": 11,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "image.interpolation": "none",
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "lora_jax",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


def styled() -> AbstractContextManager[None]:
    """Apply the style while a plot is drawn, and leave matplotlib's settings as they were."""
    return mpl.rc_context(STYLE)


def color_of(index: int) -> str:
    """Choose the colour of the n-th thing in a plot."""
    return COLORS[index % len(COLORS)]


def new_axes(x_label: str, y_label: str, *, height: float = 4.2) -> tuple[Figure, Axes]:
    """Make a figure with one pair of axes; `height` in inches, the width is 7.2."""
    # A Figure of its own, not pyplot's: no window, no global list of figures.
    figure = Figure(figsize=(7.2, height), layout="constrained")
    return figure, figure.add_subplot(xlabel=x_label, ylabel=y_label)


def new_panels(count: int, columns: int, *, width: float, height: float) -> tuple[Figure, list]:
    """Make a figure of several axes, filled row by row; the size of each in inches."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(count)]


def set_log_x(axes: Axes, values: list[float]) -> None:
    """Make the x axis logarithmic, and name on it the values themselves if they are few."""
    axes.set_xscale("log")
    values = sorted(set(values))
    if len(values) <= MOST_TICKS:
        axes.xaxis.set_major_locator(FixedLocator(values))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{value:g}" for value in values]))
        axes.xaxis.set_minor_locator(NullLocator())


def to_svg(figure: Figure) -> str:
    """Write a figure as an <svg> element for the middle of a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # A style sheet in the plot would reach the whole page.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    # Inside HTML an <svg> needs no namespaces, and the page sets its size.
    svg = re.sub(r' (?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", svg, count=5)
    return _with_own_ids(svg).replace(INK, "currentColor")


def _with_own_ids(svg: str) -> str:
    """Rename what is referred to, and drop other ids: two plots of a page must share none."""
    prefix = hashlib.sha256(svg.encode()).hexdigest()[:8]
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
