"""Tables show what a row holds, whatever kind of record it is."""

import dataclasses
import io
import math
from typing import NamedTuple

import numpy as np
import pytest
from rich.console import Console

from lora_jax.evaluation import Interval, Latency
from lora_jax.reports import html
from lora_jax.reports.tables import Column, Published, cells, plus_minus, print_table


@dataclasses.dataclass
class Record:
    name: str
    score: float


class Pair(NamedTuple):
    name: str
    score: float


COLUMNS = [Column("name", "targets"), Column("score", "accuracy", "{:.1%}")]


@pytest.mark.parametrize("make", [Record, Pair, lambda name, score: {"name": name, "score": score}])
def test_mappings_dataclasses_and_named_tuples_are_rows(make):
    rows = cells([make("q_proj", 0.5), make("v_proj", 0.625)], COLUMNS)
    assert [[cell.text for cell in row] for row in rows] == [
        ["q_proj", "50.0%"],
        ["v_proj", "62.5%"],
    ]
    assert [cell.is_number for cell in rows[0]] == [False, True]


def test_what_is_missing_is_a_dash_and_sorts_nowhere():
    (absent,), (none,), _ = cells([{}, {"score": None}, {"score": 1}], [Column("score", "s")])
    assert absent == none == ("–", None, False)


def test_an_interval_sorts_by_its_mean():
    interval = Interval(0.5, 0.4, 0.6)
    ((cell,),) = cells([{"score": interval}], [Column("score", "s", plus_minus(2))])
    assert cell == ("0.50 ± 0.10", 0.5, True)


def test_a_latency_is_a_number_and_sorts_by_its_median():
    latency = Latency(np.array([0.001, 0.002, 0.009]))
    ((cell,),) = cells([{"ms": latency}], [Column("ms", "ms", lambda value: "2 ms")])
    assert cell == ("2 ms", 0.002, True)


def test_an_interval_of_one_seed_is_written_as_its_mean():
    assert plus_minus(1, scale=100)(Interval(0.5, math.nan, math.nan)) == "50.0"


def test_a_column_that_no_row_has_is_an_error_that_names_the_fields():
    with pytest.raises(ValueError, match=r"'speed'; the first has name, score"):
        cells([{"name": "q", "score": 1}], [Column("speed", "speed")])


def test_a_row_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="not ndarray"):
        cells([np.zeros(3)], COLUMNS)


def test_brackets_in_a_name_are_printed_and_numbers_stand_to_the_right():
    output = io.StringIO()
    rows = [{"name": "[q|v]_proj", "score": 0.5}, {"name": "all", "score": 1}]
    print_table(rows, COLUMNS, title="Results", console=Console(file=output, width=60))
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    assert lines[0] == "Results"
    first, last = (next(line for line in lines if name in line) for name in ("[q|v]_proj", "all"))
    assert first.endswith("50.0%")
    assert last.endswith("100.0%")
    assert len(first) == len(last)


def test_a_published_row_says_so_in_the_terminal_and_on_the_page():
    rows = [
        {"name": "q+v", "score": Interval(0.72, 0.70, 0.74), "parameters": 18},
        Published("Hu et al. 2021, table 5", {"name": "Wq, Wv", "score": 0.737}),
    ]
    columns = [
        Column("name", "weights"),
        Column("score", "accuracy", plus_minus(3)),
        Column("parameters", "parameters", "{:,}"),
    ]
    written = [[cell.text for cell in row] for row in cells(rows, columns)]
    assert written[0] == ["q+v", "0.720 ± 0.020", "18"]
    assert written[1] == ["Wq, Wv (published: Hu et al. 2021, table 5)", "0.737", "–"]
    page = html.table(rows, columns)
    assert page.count('<tr class="published">') == 1
    assert '<tr class="published"><td>Wq, Wv (published:' in page
