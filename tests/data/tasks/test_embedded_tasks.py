"""Tasks without any download: the standard library's texts, digits, made-up invoices."""

import collections
import json

import numpy as np
import pytest

from lora_jax.data import load_text_task
from lora_jax.data.invoice_content import draw_invoice
from lora_jax.data.invoice_picture import LAYOUTS
from lora_jax.data.tasks.stdlib_texts import split_at_blank_lines
from lora_jax.data.text_task import open_image
from lora_jax.evaluation import METRICS

# ---- Texts


@pytest.fixture(scope="module")
def prose():
    return load_text_task("stdlib_prose")


def test_texts_are_learnt_as_they_are_and_have_no_prompt(prose):
    assert all(record.turns == () for record in prose.train)
    assert (prose.metrics, prose.metric) == ((), "loss")


def test_all_documents_of_a_topic_are_on_one_side(prose):
    train, test = ({record.place for record in side} for side in (prose.train, prose.test))
    assert train
    assert test
    assert not train & test


def test_documents_joined_are_the_text_again(prose):
    from pydoc_data.topics import topics

    parts = collections.defaultdict(list)
    for record in (*prose.train, *prose.test):
        parts[record.place.removeprefix("pydoc_data.topics, ")].append(record.answer)
    assert set(parts) == {name for name, text in topics.items() if text.strip()}
    for name, several in parts.items():
        assert "\n\n".join(several) == topics[name].strip()


def test_documents_are_no_longer_than_asked_unless_a_paragraph_is():
    text = "\n\n".join("x" * n for n in (3, 4, 20, 5, 5))
    assert [len(part) for part in split_at_blank_lines(text, 12)] == [9, 20, 12]


def test_code_is_the_source_of_the_standard_library_without_its_tests(tmp_path):
    for name, text in {
        "a.py": "x = 1\n\ny = 2\n",
        "test/b.py": "z = 3\n",
        "c/d.py": "w = 4",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for i in range(30):
        (tmp_path / f"m{i}.py").write_text(f"value = {i}\n")
    task = load_text_task("stdlib_code", {"stdlib": tmp_path, "characters": 6})
    answers = {record.answer for record in (*task.train, *task.test)}
    assert {"x = 1", "y = 2", "w = 4"} <= answers
    assert "z = 3" not in answers


def test_the_running_pythons_code_is_there():
    task = load_text_task("stdlib_code")
    assert any("class Task(" in r.answer for r in (*task.train, *task.test))


def test_documents_without_characters_are_refused():
    with pytest.raises(ValueError, match="documents of 0 characters"):
        load_text_task("stdlib_prose", {"characters": 0})


# ---- Digits


def test_digits_are_shown_dark_on_white():
    from sklearn.datasets import load_digits

    task = load_text_task("digits", {"scale": 3})
    assert len(task.train) + len(task.test) == 1797
    record = task.test[0]
    number = int(record.place.removeprefix("digit "))
    data = load_digits()
    assert record.answer == str(data.target[number])
    shown = np.asarray(open_image(record.images[0]))[1::3, 1::3, 0]
    assert shown.shape == (8, 8)
    assert np.corrcoef(shown.ravel(), data.images[number].ravel())[0, 1] < -0.999


def test_digits_take_at_least_a_pixel():
    with pytest.raises(ValueError, match="scale is 0"):
        load_text_task("digits", {"scale": 0})


# ---- Invoices


def test_an_invoice_is_always_the_same_and_none_is_on_both_sides():
    one, other = (load_text_task("invoices", {"train": 5, "test": 5}) for _ in range(2))
    assert one.train[:] == other.train[:]
    answers = [r.answer for r in (*one.train, *one.test)]
    assert len(set(answers)) == 10
    assert load_text_task("invoices", {"seed": 1}).train[0] != one.train[0]


@pytest.mark.parametrize("seed", range(20))
def test_the_sums_of_an_invoice_agree(seed):
    invoice = draw_invoice(np.random.default_rng(seed))
    cents = lambda text: round(float(text) * 100)
    for item in invoice["items"]:
        assert cents(item["amount"]) == int(item["quantity"]) * cents(item["unit_price"])
    assert cents(invoice["subtotal"]) == sum(cents(item["amount"]) for item in invoice["items"])
    rate = int(invoice["tax_rate"].removesuffix("%"))
    assert abs(cents(invoice["tax"]) - cents(invoice["subtotal"]) * rate / 100) <= 0.5
    assert cents(invoice["total"]) == cents(invoice["subtotal"]) + cents(invoice["tax"])
    assert invoice["date"] < invoice["due_date"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_text_of_the_answer_is_drawn_in_every_layout(layout, monkeypatch):
    from lora_jax.data import invoice_picture

    written = []
    draw = invoice_picture._Page.write

    def write(page, x, y, text, *arguments, **options):
        written.append(text)
        draw(page, x, y, text, *arguments, **options)

    monkeypatch.setattr(invoice_picture._Page, "write", write)
    record = load_text_task("invoices", {"layouts": (layout,), "noise": 0.0}).train[0]
    shown = "\n".join(written)

    def check(value):
        for inner in value.values() if isinstance(value, dict) else value:
            check(inner) if isinstance(inner, dict | list) else None
            assert not isinstance(inner, str) or inner in shown, inner

    check(json.loads(record.answer))
    assert open_image(record.images[0]).size == invoice_picture.SIZE


def test_noise_changes_the_picture_and_not_the_answer():
    clean, noisy = (load_text_task("invoices", {"noise": noise}).train[3] for noise in (0.0, 1.0))
    assert clean.answer == noisy.answer
    assert clean.images != noisy.images


def test_a_perfect_reading_of_an_invoice_scores_one():
    task = load_text_task("invoices", {"test": 5})
    references = [record.accepted for record in task.test[:]]
    for metric in task.metrics:
        assert METRICS[metric]([texts[0] for texts in references], references) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 0}, "must be at least 1"),
        ({"noise": 1.5}, "noise is 1.5, not between 0 and 1"),
        ({"layouts": ("clasic",)}, "unknown layout 'clasic'; nearest: 'classic'"),
    ],
)
def test_impossible_invoices_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_text_task("invoices", options)
