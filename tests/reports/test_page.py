"""A page stands alone, escapes what it is given, and its script finds what it sorts by."""

import re
from html.parser import HTMLParser

import pytest

from lora_jax.evaluation import Interval
from lora_jax.reports import Column, Curve, Section, curves_plot, html, render_page, write_page
from lora_jax.reports.tables import plus_minus

VOID = {"meta", "link", "br", "img", "path", "use"}


class Outline(HTMLParser):
    """Checks that tags are closed in order, and gathers tags with their attributes and text."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def outline(page):
    parser = Outline()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture
def page():
    rows = [
        {"name": "q<b>", "score": Interval(0.7, 0.6, 0.8), "ms": 1.25},
        {"name": "all", "score": Interval(0.9, 0.8, 1.0), "ms": None},
    ]
    columns = [
        Column("name", "targets"),
        Column("score", "accuracy", plus_minus(1)),
        Column("ms", "latency (ms)", "{:.2f}"),
    ]
    plot = curves_plot([Curve("a & b", [0, 1], [1.0, 0.5])])
    sections = [
        Section("Results & more", [html.table(rows, columns, highlight="all")]),
        Section("Curves", [html.figure(plot, "loss < 1")]),
        Section(
            "Reproduce",
            [
                html.command("python -m experiments.x --config.a='<1>'"),
                html.fields({"jax": "0.10"}),
                html.settings({"rank": 8, "targets": ("q", "v")}),
            ],
        ),
    ]
    return render_page("Which <modules>?", sections, lead="Three seeds.", finding="Take q<b>.")


def test_the_page_is_well_formed_and_refers_to_nothing_outside_itself(page):
    elements = outline(page).elements
    assert "://" not in page
    assert "@import" not in page
    for _, attributes in elements:
        assert "src" not in attributes
        for link in (attributes.get("href"), attributes.get("xlink:href")):
            assert link is None or link.startswith("#")


def test_text_is_shown_as_it_was_given(page):
    text = "".join(outline(page).text)
    for given in ("Which <modules>?", "Take q<b>.", "Results & more", "loss < 1", "q<b>"):
        assert given in text
    assert "--config.a='<1>'" in text
    assert '"targets": [' in text


def test_numbers_carry_the_value_they_are_sorted_by(page):
    cells = [attributes for tag, attributes in outline(page).elements if tag == "td"]
    assert [cell.get("data-value") for cell in cells] == [None, "0.7", "1.25", None, "0.9", None]
    assert [cell.get("class") for cell in cells] == [None, "number", "number"] * 2


def test_the_highlighted_row_is_the_named_one(page):
    assert re.findall(r'<tr class="highlight"><td>(\w+)</td>', page) == ["all"]


def test_a_page_is_written_whole_or_not_at_all(page, tmp_path):
    path = tmp_path / "report.html"
    write_page(path, page)
    assert path.read_text(encoding="utf-8") == page
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UnicodeEncodeError):
        write_page(path, page + "\ud800")
    assert path.read_text(encoding="utf-8") == page
    assert list(tmp_path.iterdir()) == [path]
