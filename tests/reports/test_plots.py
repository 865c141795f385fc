"""Plots put every point where the axes say, belong to no global state, and fit into a page."""

import base64
import io
import math
import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from lora_jax.analysis import Candidate
from lora_jax.evaluation import Interval
from lora_jax.reports import (
    Bar,
    Curve,
    HeatMap,
    Panel,
    Series,
    SeriesPanel,
    curves_plot,
    heat_maps_plot,
    intervals_plot,
    series_panels,
    series_plot,
    tradeoff_panels,
    tradeoff_plot,
)
from lora_jax.reports.drawing import COLORS

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


def texts(svg):
    return {element.text for element in parse(svg).iter("text")}


def test_panels_name_their_choices_and_keep_their_colours_whatever_the_order():
    panels = [Panel("one", CHOICES[:2], CHOICES[2:]), Panel("two", CHOICES[::-1], (), "slow")]
    svg = tradeoff_panels(panels, x_label="ms", y_label="accuracy")
    assert {"one", "two", "recommended", *(choice.name for choice in CHOICES)} <= texts(svg)
    colors = re.findall(r'<text style="([^"]*)"[^>]*>slow<', svg)
    assert len(colors) == 2
    assert len({re.search("fill: #[0-9a-f]{6}", color)[0] for color in colors}) == 1
    with pytest.raises(ValueError, match="no candidate in empty"):
        tradeoff_panels([Panel("empty", [])], x_label="ms", y_label="accuracy")
    with pytest.raises(ValueError, match="no panel"):
        tradeoff_panels([], x_label="ms", y_label="accuracy")


def test_a_series_names_its_places_and_says_what_was_published():
    ranks = [1, 4, 64]
    seeds = [[0.70, 0.72], [0.74, 0.76], [0.75, 0.77]]
    paper = Series("Wq, Wv", ranks, [0.734, Interval(0.737, 0.73, 0.74), math.nan], True)
    svg = series_plot([Series("q_proj", ranks, seeds), paper], x_label="rank", y_label="accuracy")
    assert {"1", "4", "64", "q_proj", "Wq, Wv (published)", "rank"} <= texts(svg)
    steps = series_plot([Series("q", [0, 10], [0.1, 0.2])], x_label="%", y_label="", log_x=False)
    assert "10" in texts(steps)


def test_series_of_one_name_have_one_colour_in_all_panels():
    one, two = Series("a", [1, 2], [0.1, 0.2]), Series("b", [1, 2], [0.1, 0.2])
    panels = [SeriesPanel("CoLA", [one, two]), SeriesPanel("RTE", [two])]
    svg = series_panels(panels, x_label="rank", y_label="accuracy")
    assert {"CoLA", "RTE"} <= texts(svg)
    alone = series_panels([SeriesPanel("", [two])], x_label="rank", y_label="accuracy")
    assert svg.count(f"stroke: {COLORS[1]}") > 2 * alone.count(f"stroke: {COLORS[1]}")


def test_what_cannot_be_a_series_is_refused():
    with pytest.raises(ValueError, match="no series"):
        series_plot([], x_label="rank", y_label="accuracy")
    with pytest.raises(ValueError, match="a: 1 values at 2 places"):
        series_plot([Series("a", [1, 2], [0.5])], x_label="rank", y_label="accuracy")
    with pytest.raises(ValueError, match="a: 0 has no place on a logarithmic axis"):
        series_plot([Series("a", [0, 2], [0.5, 0.6])], x_label="rank", y_label="accuracy")


def test_small_heat_maps_show_their_numbers_and_nothing_where_there_is_none():
    values = np.array([[0.25, math.nan], [0.5, 1.0]])
    maps = [HeatMap("layer 0", values, ("r1", "r2"), ("c1", "c2")), HeatMap("layer 1", values)]
    svg = heat_maps_plot(maps, x_label="j", y_label="i", value_label="φ", low=0, high=1)
    shown = [element.text for element in parse(svg).iter("text")]
    assert shown.count("0.25") == shown.count("1.00") == 2
    assert {"layer 0", "layer 1", "φ", "r1", "c2"} <= set(shown)
    assert not any("nan" in text for text in shown)


def test_a_scale_with_negative_values_is_pale_at_zero_and_shared_by_all_maps():
    def first_pixels(*tops):
        maps = [HeatMap(str(top), np.array([[0.0, top]])) for top in tops]
        svg = heat_maps_plot(maps, x_label="j", y_label="i", value_label="φ")
        data = re.search(r"base64,\s*([^\"]+)", svg)[1]
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            return image.convert("RGB").getpixel((0, 0))

    assert min(first_pixels(-0.5, 0.5)) > 240
    assert first_pixels(1.0) == first_pixels(1.0, 0.5)
    assert first_pixels(1.0) != first_pixels(-0.5, 0.5)


def test_what_is_no_heat_map_is_refused():
    labels = {"x_label": "j", "y_label": "i", "value_label": "φ"}
    with pytest.raises(ValueError, match="no map"):
        heat_maps_plot([], **labels)
    with pytest.raises(ValueError, match=r"empty: a heat map shows a matrix, not .* \(0, 3\)"):
        heat_maps_plot([HeatMap("empty", np.ones((0, 3)))], **labels)
    with pytest.raises(ValueError, match="a: 1 names for 2 columns"):
        heat_maps_plot([HeatMap("a", np.ones((2, 2)), (), ("one",))], **labels)


def test_intervals_are_named_numbered_and_grouped():
    bars = [
        Bar("o_proj", Interval(0.71, 0.70, 0.72), "CoLA"),
        Bar("o_proj", Interval(0.61, 0.60, 0.62), "RTE"),
        Bar("Wo", 0.732, "RTE", is_published=True),
    ]
    shown = [
        element.text
        for element in parse(intervals_plot(bars, x_label="accuracy", reference=0.5)).iter("text")
    ]
    assert {"0.710", "0.610", "0.732", "CoLA", "RTE", "Wo (published)"} <= set(shown)
    assert shown.count("o_proj") == 1, "the second of the two stands under the same name"
    with pytest.raises(ValueError, match="no bar"):
        intervals_plot([], x_label="accuracy")


def test_every_plot_can_stand_in_a_page():
    interval = Interval(0.5, 0.4, 0.6)
    for svg in (
        tradeoff_panels([Panel("one", CHOICES)], x_label="ms", y_label="accuracy"),
        series_plot([Series("a", [1, 2], [interval, interval])], x_label="r", y_label="accuracy"),
        heat_maps_plot([HeatMap("a", np.eye(3))], x_label="j", y_label="i", value_label="φ"),
        intervals_plot([Bar("a", interval)], x_label="accuracy"),
    ):
        assert parse(svg).tag == "svg"
        assert "://" not in svg
        assert "currentColor" in svg
        assert "#123456" not in svg
