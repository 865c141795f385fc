"""The study of latency, small: what it writes, that it goes on."""

import json

import jax
import numpy as np
import pytest

from configs.latency import get_config
from experiments import latency
from experiments.latency_report import AGAIN, BASE, MERGED, UNMERGED, Cell, finding
from lora_jax.evaluation import Latency
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


SMALL = {"dim": 16, "layers": 2, "heads": 2, "vocab_size": 40}


def test_merged_lora_is_the_compiled_program_of_the_base():
    config = latency.defaults()
    config.model.update(SMALL)
    config.adapter_parameters = 400
    contenders = latency.make_contenders(config, latency.make_model_config(config))
    ids = np.ones((1, 4), np.int32)

    def program(name):
        run, arrays, _ = contenders[name]
        return run.lower(arrays, ids).as_text()

    base, again, merged = (contenders[name] for name in (BASE, AGAIN, MERGED))
    assert merged.run is again.run is base.run  # and so one cache of compiled programs
    assert program(MERGED) == program(AGAIN) == program(BASE) != program(UNMERGED)
    said = np.asarray(base.run(base.arrays, ids))
    compiled = []
    listen = lambda event, _, **__: compiled.append(event)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        changed = np.asarray(merged.run(merged.arrays, ids))
        unchanged = np.asarray(again.run(again.arrays, ids))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not [event for event in compiled if "backend_compile" in event]
    assert (unchanged == said).all()
    assert np.abs(changed - said).max() > 1e-4


def test_ratios_are_told_with_their_intervals():
    seconds = {BASE: [1.0, 2.0, 4.0], AGAIN: [1.0, 2.0, 4.0], MERGED: [1.02, 2.0, 4.0]}
    latencies = {name: Latency(np.array(times)) for name, times in seconds.items()}
    said = finding([Cell(1, 16, 1e-6, latencies)])
    assert "base again 1.000 (1.000 – 1.000), LoRA merged 1.000 (1.000 – 1.020)" in said


def test_merged_is_timed_beside_the_base_twice_in_many_rounds():
    config = get_config("merged")
    assert config.contenders == (BASE, AGAIN, MERGED)
    assert config.rounds >= 400
    latency.check(config)
    config.contenders = (MERGED,)
    with pytest.raises(ValueError, match="'base' and any of base again"):
        latency.check(config)


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
