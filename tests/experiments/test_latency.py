"""The study of latency, small: what it writes, that it goes on."""

import json

import pytest

from experiments import latency
from tests.experiments.command import run

TINY = [
    "--config=configs/latency.py",
    "--config.model.dim=16",
    "--config.model.layers=2",
    "--config.model.heads=2",
    "--config.model.vocab_size=40",
    "--config.adapter_parameters=400",
    "--config.rounds=3",
]


@pytest.mark.slow
def test_every_cell_is_measured_once_and_published_figures_are_labelled(tmp_path):
    workdir = tmp_path / "run"
    command = ["latency", *TINY, "--config.grid=((1, 4), (2, 3))", f"--workdir={workdir}"]
    said = run(*command)
    assert "LoRA merged: 0 parameters beside the base" in said
    results = json.loads((workdir / "results.json").read_text())
    names = ["base", "LoRA merged", "LoRA unmerged", "Adapter-L", "Adapter-H"]
    assert [cell["where"] for cell in results["cells"]] == names * 2
    assert all(cell["milliseconds"] > 0 for cell in results["cells"])
    assert results["differences"].keys() == {"1 x 4", "2 x 3"}
    assert max(results["differences"].values()) < 1e-4
    page = (workdir / "report.html").read_text()
    assert "Hu et al. 2021, table 1" in page
    assert "published" in page
    log = (workdir / "metrics.jsonl").read_text()
    assert run(*command).count("done before") == 2
    assert (workdir / "metrics.jsonl").read_text() == log


def test_the_plan_names_what_does_not_fit():
    config = latency.defaults()
    config.grid = ((1, 2000),)
    with pytest.raises(ValueError, match=r"1 x 2000.*1 to the model's 1024 positions"):
        latency.main(config, None)
