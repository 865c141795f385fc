"""Lines of receipts, labelled by the texts of the receipt."""

import collections

import pytest

from lora_jax.data import load_task
from lora_jax.data.tasks.sroie_lines import CLASSES, line_class

ENTITIES = {
    "company": "BOOK TA .K (TAMAN DAYA) SDN BHD",
    "date": "25/12/2018",
    "address": "NO.53 55,57 & 59, JALAN SAGU 18, TAMAN DAYA, 81100 JOHOR BAHRU, JOHOR.",
    "total": "9.00",
}


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("BOOK TA .K (TAMAN DAYA) SDN BHD", "company"),
        ("book ta.k (taman daya)", "company"),
        ("TAMAN DAYA,", "address"),  # part of the company's name too, but little of it
        ("JOHOR.", "address"),
        ("NO.", "other"),  # too short to tell
        ("25/12/2018 8:13:39 PM", "date"),
        ("25/12/20189", "other"),
        ("TOTAL: 9.00", "total"),
        ("19.00", "other"),
        ("9.000", "other"),
        ("CASHIER:", "other"),
        ("***", "other"),
    ],
)
def test_a_line_belongs_to_the_text_that_it_is_part_of_or_that_it_holds(line, label):
    assert line_class(line, ENTITIES) == label


def test_a_receipt_without_a_text_has_no_line_of_it():
    assert line_class("9.00", {**ENTITIES, "total": ""}) == "other"


@pytest.mark.needs_data
def test_the_lines_of_real_receipts_are_on_the_side_of_their_receipt(data_dir):
    task = load_task("sroie_lines", {"directory": data_dir / "sroie"})
    sides = [
        collections.Counter(CLASSES[r.label] for r in side) for side in (task.train, task.test)
    ]
    assert [sum(side.values()) for side in sides] == [3926, 1318]
    # Nearly every receipt has at least one line of each text that was read as it is written.
    assert all(side[name] > 15 for side in sides for name in CLASSES)
    first = task.test[:3]
    assert [record.pair for record in first] == ["", first[0].text, first[1].text]
    assert first[0].text == "TAN WOON YANN"
