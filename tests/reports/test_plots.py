"""Plots put every point where the axes say, belong to no global state, and fit into a page."""

import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from lora_jax.analysis import Candidate
from lora_jax.reports import Curve, curves_plot, tradeoff_plot

COSTS = tuple(2 + 0.01 * round_ for round_ in range(10))
CHOICES = [
    Candidate("q_proj", (0.70, 0.71, 0.72), COSTS),
    Candidate("v_proj", (0.70, 0.71, 0.73), COSTS),
    Candidate("all & more", (0.80, 0.81, 0.82), (5.0,)),
    Candidate("slow", (0.60,), (6.0,)),
]


def parse(svg):
    """Read the element as XML; plots carry prefixed links, whose namespace the page implies."""
    return ET.fromstring(svg.replace("xlink:", ""))


def test_a_plot_is_a_well_formed_element_without_namespaces_or_addresses():
    for svg in (
        tradeoff_plot(CHOICES, x_label="ms", y_label="accuracy", recommended="q_proj"),
        curves_plot([Curve("a", [0, 1], [1.0, 0.5])]),
    ):
        assert parse(svg).tag == "svg"
        assert "://" not in svg


def test_every_choice_and_axis_is_named_and_the_recommended_one_ringed():
    svg = tradeoff_plot(CHOICES, x_label="ms", y_label="accuracy", recommended="q_proj")
    texts = [element.text for element in parse(svg).iter("text")]
    for name in [*(choice.name for choice in CHOICES), "ms", "accuracy", "recommended"]:
        assert name in texts
    plain = tradeoff_plot(CHOICES, x_label="ms", y_label="accuracy")
    assert ">recommended<" not in plain


def test_names_of_points_that_coincide_do_not_cover_each_other():
    svg = tradeoff_plot(CHOICES, x_label="ms", y_label="accuracy")
    places = {
        element.text: (float(element.get("x")), float(element.get("y")))
        for element in parse(svg).iter("text")
    }
    assert places["q_proj"][1] - places["v_proj"][1] >= 10
    assert places["all & more"][0] > places["q_proj"][0]
    assert places["all & more"][1] < places["slow"][1], "a higher score stands higher"


def test_references_are_drawn_hollow_and_leave_the_front_as_it_is():
    axes = {"x_label": "ms", "y_label": "accuracy"}
    best = Candidate("best of all", (0.9, 0.9), (1.0,))
    filled = tradeoff_plot([CHOICES[0], best], **axes)
    hollow = tradeoff_plot([CHOICES[0]], references=[best], **axes)
    assert "best of all" in hollow
    assert hollow.count("fill-opacity: 0") > filled.count("fill-opacity: 0")


def test_a_window_shows_the_mean_of_so_many_values_at_the_last_step():
    def ticks(**settings):
        svg = curves_plot([Curve("a", range(1, 5), [9.0, 1.0, 9.0, 1.0])], **settings)
        return {element.text for element in parse(svg).iter("text")}

    assert {"2", "8"} <= ticks()
    smooth = ticks(window=2)
    assert "5.0" in smooth
    assert not {"2", "8"} & smooth


def test_text_takes_the_colour_of_the_page():
    svg = curves_plot([Curve("a", [0, 1], [1.0, 0.5])])
    assert "currentColor" in svg
    assert "#123456" not in svg
    assert "<style" not in svg, "a style sheet would reach the whole page"
    assert "#ffffff" not in svg, "the background is the page's own"


def test_two_plots_share_no_id_and_each_refers_to_its_own():
    first = curves_plot([Curve("a", [0, 1], [1.0, 0.5])])
    second = curves_plot([Curve("b", [0, 1], [1.0, 0.5])])
    ids = [set(re.findall(r' id="([^"]*)"', svg)) for svg in (first, second)]
    references = [set(re.findall(r'(?:href="|url\()#([^")]*)', svg)) for svg in (first, second)]
    assert ids == references
    assert ids[0]
    assert not ids[0] & ids[1]


def test_the_same_data_give_the_same_bytes():
    plots = [curves_plot([Curve("a", [0, 1], [[1.0, 0.5], [1.1, 0.4]])]) for _ in range(2)]
    assert plots[0] == plots[1]


def test_plotting_leaves_matplotlib_s_settings_alone_and_registers_no_figure():
    before = dict(mpl.rcParams)
    curves_plot([Curve("a", [0, 1], [1.0, 0.5])])
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


def test_a_band_is_drawn_for_several_seeds_only():
    one = curves_plot([Curve("a", [0, 1], [1.0, 0.5])])
    several = curves_plot([Curve("a", [0, 1], [[1.0, 0.5], [1.2, 0.4]])])
    assert "opacity: 0.18" not in one
    assert "opacity: 0.18" in several


def test_nothing_to_plot_and_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="no candidate"):
        tradeoff_plot([], x_label="ms", y_label="accuracy")
    with pytest.raises(ValueError, match="no curve"):
        curves_plot([])
    with pytest.raises(ValueError, match="a: 1 values at 2 steps"):
        curves_plot([Curve("a", [0, 1], [1.0])])
