"""Score against cost: the choices, their intervals, and the Pareto front."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from lora_jax.analysis.pareto import Candidate, pareto_front
from lora_jax.reports.drawing import INK, color_of, new_axes, new_panels, styled, to_svg

# Where a name may stand, in points from its point, the best first.
SIDES = ((9, 4), (9, -12), (-9, 4), (-9, -12), (0, 10), (0, -18))
PLACES = (*SIDES, *((2 * x, 2 * y) for x, y in SIDES), *((x, 3 * y) for x, y in SIDES))


class Panel(NamedTuple):
    """One trade-off among several: a task, or a control, with what was chosen from."""

    title: str
    candidates: Sequence[Candidate]
    """At least one."""
    references: Sequence[Candidate] = ()
    """What the choices are compared with; drawn hollow and left out of the front."""
    recommended: str | None = None
    """The name of the choice to ring."""


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
    panel = Panel("", candidates, references, recommended)
    with styled():
        figure, axes = new_axes(x_label, y_label)
        _draw_panel(axes, panel, _colors([panel]))
        axes.margins(x=0.25, y=0.15)
        axes.legend(loc="lower right")
        figure.draw_without_rendering()  # the layout decides where the points come to lie
        _label_choices(axes, panel, _colors([panel]))
        return to_svg(figure)


def tradeoff_panels(
    panels: Sequence[Panel], *, x_label: str, y_label: str, columns: int = 2
) -> str:
    """Plot several trade-offs side by side; a choice has the same colour in all of them.

    Args:
      panels: One a task or a control, at least one.
      x_label: What the costs are, with their unit.
      y_label: What the scores are.
      columns: Panels in a row, at most.

    Returns:
      An <svg> element.

    Raises:
      ValueError: If there is no panel, or one has no candidate.
    """
    if not panels:
        raise ValueError("nothing to plot: there is no panel")
    colors = _colors(panels)
    with styled():
        figure, all_axes = new_panels(len(panels), columns, width=5.0, height=3.7)
        for panel, axes in zip(panels, all_axes, strict=True):
            _draw_panel(axes, panel, colors)
            axes.set(title=panel.title, xlabel=x_label, ylabel=y_label)
            axes.margins(x=0.25, y=0.15)
        drawn = [axes.get_legend_handles_labels() for axes in all_axes]
        marks = {
            label: mark
            for marks, labels in drawn
            for mark, label in zip(marks, labels, strict=True)
        }
        figure.legend(
            marks.values(), marks.keys(), loc="outside upper right", ncols=2, fontsize="small"
        )
        figure.draw_without_rendering()
        for panel, axes in zip(panels, all_axes, strict=True):
            _label_choices(axes, panel, colors)
        return to_svg(figure)


def _colors(panels: Sequence[Panel]) -> dict[str, str]:
    """Give each name a colour, by its first appearance."""
    choices = [choice for panel in panels for choice in (*panel.candidates, *panel.references)]
    names = dict.fromkeys(choice.name for choice in choices)
    return {name: color_of(index) for index, name in enumerate(names)}


def _draw_panel(axes: Axes, panel: Panel, colors: Mapping[str, str]) -> None:
    if not panel.candidates:
        where = f" in {panel.title}" if panel.title else ""
        raise ValueError(f"nothing to plot: there is no candidate{where}")
    front = pareto_front(panel.candidates)
    costs, scores = [choice.cost for choice in front], [choice.score.mean for choice in front]
    axes.step(costs, scores, "--", where="post", color=INK, alpha=0.5, label="Pareto front")
    for choice in panel.candidates:
        _draw_choice(axes, choice, colors[choice.name], is_filled=True)
        if choice.name == panel.recommended:
            point = choice.cost, choice.score.mean
            axes.scatter(*point, s=170, facecolors="none", edgecolors=INK, label="recommended")
    for choice in panel.references:
        _draw_choice(axes, choice, colors[choice.name], is_filled=False)


def _draw_choice(axes: Axes, choice: Candidate, color: str, *, is_filled: bool) -> None:
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


def _label_choices(axes: Axes, panel: Panel, colors: Mapping[str, str]) -> None:
    """Write each name beside its point, where it covers the least of points and other names."""
    choices = (*panel.candidates, *panel.references)
    points = axes.transData.transform([(c.cost, c.score.mean) for c in choices])
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in points]
    for index in np.argsort(-points[:, 1], kind="stable"):
        choice = choices[index]
        label = axes.annotate(
            choice.name,
            (choice.cost, choice.score.mean),
            xytext=PLACES[0],
            textcoords="offset points",
            fontsize="small",
            color=colors[choice.name],
        )
        place = min(PLACES, key=lambda place: _covered(axes, label, place, taken))
        _put(label, place)
        taken.append(label.get_window_extent())


def _put(label: Annotation, place: tuple[int, int]) -> None:
    label.set_position(place)
    label.set_horizontalalignment("left" if place[0] > 0 else "right" if place[0] < 0 else "center")


def _covered(axes: Axes, label: Annotation, place: tuple[int, int], taken: Sequence[Bbox]) -> float:
    """How much of what is drawn a name would cover there, or lie outside, in pixels."""
    _put(label, place)
    box = label.get_window_extent()
    inside = Bbox.intersection(box, axes.bbox)
    outside = _area(box) - (_area(inside) if inside else 0)
    shared = (Bbox.intersection(box, other) for other in taken)
    return outside + sum(_area(part) for part in shared if part)


def _area(box: Bbox) -> float:
    return float(box.width * box.height)
