"""Plots as SVG elements that take the text colour of the page, light or dark."""

import hashlib
import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_jax.analysis.pareto import Candidate, pareto_front

INK = "#123456"
"""Stands for the page's text colour until the SVG is written."""
COLORS = ("#4c8dd6", "#e8833a", "#3fa56b", "#d9534f", "#9a6fc4", "#b8862f", "#2fa7b5", "#8a8f98")
"""Legible on white and on near-black."""

STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 11,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "lora_jax",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


class Curve(NamedTuple):
    """A value over the steps of training, of one seed or of several."""

    name: str
    steps: Sequence[float]
    values: Sequence[float] | Sequence[Sequence[float]]
    """[steps], or [seeds, steps]."""


def tradeoff_plot(
    candidates: Sequence[Candidate],
    *,
    x_label: str,
    y_label: str,
    references: Sequence[Candidate] = (),
    recommended: str | None = None,
) -> str:
    """Plot score against cost, with the intervals of both and the Pareto front.

    Args:
      candidates: The choices, at least one.
      x_label: What the cost is, with its unit.
      y_label: What the score is.
      references: What the choices are compared with; drawn hollow and left out of the front.
      recommended: The name of the choice to ring.

    Returns:
      An <svg> element.

    Raises:
      ValueError: If there is no candidate.
    """
    if not candidates:
        raise ValueError("nothing to plot: there is no candidate")
    with mpl.rc_context(STYLE):
        figure, axes = _figure(x_label, y_label)
        _draw_front(axes, pareto_front(candidates))
        for index, choice in enumerate((*candidates, *references)):
            _draw_choice(axes, choice, COLORS[index % len(COLORS)], index < len(candidates))
            if choice.name == recommended:
                point = choice.cost, choice.score.mean
                axes.scatter(*point, s=170, facecolors="none", edgecolors=INK, label="recommended")
        axes.margins(x=0.25, y=0.15)
        axes.legend(loc="lower right")
        figure.draw_without_rendering()  # the layout decides where the points come to lie
        _label_choices(axes, (*candidates, *references))
        return _to_svg(figure)


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
    with mpl.rc_context(STYLE):
        figure, axes = _figure(x_label, y_label)
        for index, curve in enumerate(curves):
            _draw_curve(axes, curve, COLORS[index % len(COLORS)], window)
        axes.legend(loc="best", fontsize="small")
        return _to_svg(figure)


def _figure(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    # A Figure of its own, not pyplot's: no window, no global list of figures.
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
    return figure, axes


def _draw_front(axes: Axes, front: Sequence[Candidate]) -> None:
    costs, scores = [choice.cost for choice in front], [choice.score.mean for choice in front]
    axes.step(costs, scores, "--", where="post", color=INK, alpha=0.5, label="Pareto front")


def _draw_choice(axes: Axes, choice: Candidate, color: str, is_filled: bool) -> None:
    low, high = choice.cost_interval
    spread = [[choice.cost - low], [high - choice.cost]]
    # A single seed has no interval, and no bar.
    rise = np.nan_to_num(choice.score.half_width)
    axes.errorbar(
        choice.cost,
        choice.score.mean,
        xerr=spread,
        yerr=rise,
        fmt="o",
        color=color,
        markerfacecolor=color if is_filled else "none",
        capsize=3,
        elinewidth=1,
    )


def _label_choices(axes: Axes, candidates: Sequence[Candidate]) -> None:
    """Write each name beside its point, pushed up where the one below would be covered."""
    points = axes.transData.transform([(c.cost, c.score.mean) for c in candidates])
    line = 15 * axes.figure.dpi / 72
    placed: list[tuple[float, float]] = []
    for index in np.argsort(points[:, 1]):
        x, height = points[index]
        for other_x, other_height in placed:
            if abs(other_x - x) < 5 * line and height - other_height < line:
                height = other_height + line
        placed.append((x, height))
        choice = candidates[index]
        axes.annotate(
            choice.name,
            (choice.cost, choice.score.mean),
            xytext=(9, (height - points[index, 1]) * 72 / axes.figure.dpi + 4),
            textcoords="offset points",
            fontsize="small",
            color=COLORS[index % len(COLORS)],
        )


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


def _to_svg(figure: Figure) -> str:
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
