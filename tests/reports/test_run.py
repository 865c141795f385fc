"""What a run leaves says what was run: experiment, command, seeds, config, versions."""

import sys

import jax
import pytest

from lora_jax.reports import Section, html, read_results, write_report


def write(tmp_path, config, results, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--config=configs/rank.py", "--config.name=two words"])
    sections = [Section("Results", [html.paragraph("they are good")])]
    write_report(tmp_path, "rank", config, results, title="Ranks", sections=sections)
    return read_results(tmp_path / "results.json"), (tmp_path / "report.html").read_text()


def test_a_run_says_how_to_repeat_it(tmp_path, monkeypatch):
    config = {"seeds": (3, 4), "steps": 5}
    results, page = write(tmp_path, config, {"score": 0.5}, monkeypatch)
    command = "python -m experiments.rank --config=configs/rank.py '--config.name=two words'"
    assert list(results) == ["experiment", "score", "command", "seeds", "config", "versions"]
    assert results["experiment"] == "rank"
    assert results["command"] == command
    assert results["seeds"] == [3, 4]
    assert results["config"] == {"seeds": [3, 4], "steps": 5}
    assert results["versions"]["jax"] == jax.__version__
    last = page[page.index("How to repeat it") :]
    assert page.index("they are good") < page.index("How to repeat it")
    for piece in ("--config.name=two words", "<dd>3, 4</dd>", jax.__version__, "&quot;steps&quot;"):
        assert piece in last


def test_what_was_found_stands_on_the_page_and_in_the_results(tmp_path):
    write_report(tmp_path, "rank", {}, {}, title="Ranks", sections=[], finding="One is enough.")
    assert read_results(tmp_path / "results.json")["finding"] == "One is enough."
    assert "One is enough." in (tmp_path / "report.html").read_text()


def test_a_single_seed_and_none_are_found(tmp_path, monkeypatch):
    assert write(tmp_path, {"seed": 7}, {}, monkeypatch)[0]["seeds"] == [7]
    assert write(tmp_path, {}, {}, monkeypatch)[0]["seeds"] == []


def test_a_result_cannot_take_the_place_of_what_was_run(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"\['config'\]"):
        write(tmp_path, {}, {"config": 1}, monkeypatch)
