"""The script of all studies: it goes on after a failure, skips what is there, and says so."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "run_studies.sh"


@pytest.fixture
def checkout(tmp_path):
    """A copy of the script in a place of its own, where `python` is a study that writes results."""
    (tmp_path / "scripts").mkdir()
    for name in ("run_studies.sh", "environment.sh"):
        text = (ROOT / "scripts" / name).read_text()
        (tmp_path / "scripts" / name).write_text(text)
    (tmp_path / "data").mkdir()
    python = tmp_path / "python"
    python.write_text(
        f"""#!{sys.executable}
import json, os, pathlib, sys
if "-m" not in sys.argv:
    os.execv({sys.executable!r}, ["python", *sys.argv[1:]])
flags = dict(flag.split("=", 1) for flag in sys.argv[3:] if "=" in flag)
print("RUN", *sys.argv[2:])
if "sst2" in flags.get("--config", ""):
    sys.exit(1)
if "cola" in flags.get("--config", ""):
    sys.exit(0)  # as one that was told to stop
place = pathlib.Path(flags["--workdir"])
place.mkdir(parents=True)
(place / "results.json").write_text(json.dumps({{"finding": "found " + sys.argv[2]}}))
"""
    )
    python.chmod(0o755)
    # The environment is there: what makes it is tested with scripts/environment.sh.
    with (tmp_path / "scripts" / "environment.sh").open("a") as file:
        file.write(
            f"\nensure_environment() {{ venv_python={python}; }}\nensure_minilm() {{ :; }}\n"
        )
    return tmp_path


def run(checkout, *arguments, **more):
    return subprocess.run(
        ["bash", str(checkout / "scripts" / "run_studies.sh"), *arguments],
        env={**os.environ, "LORA_JAX_DATA": str(checkout / "data"), **more},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_goes_on_after_a_failure_and_the_same_command_does_what_is_left(checkout):
    out = checkout / "out"
    first = run(checkout, str(out))
    assert first.returncode == 1
    failed = [f"{name}/sst2 (failed)" for name in ("lora_vs_full", "target_modules", "rank")]
    left = " ".join([*failed, "target_modules/cola (stopped)"])
    assert f"not finished: {left}; the same command goes on" in first.stderr
    assert re.search(r"task_switching \(\d+ s\): found experiments.task_switching", first.stdout)
    assert f"--config.rates_of={out}/target_modules/relevancy" in first.stdout
    path = f"--config.model.path={out}/pretrain/model --config.model.fresh=True"
    assert path in first.stdout
    own, fresh = f"{out}/lora_vs_full/own", f"{out}/lora_vs_full/fresh"
    assert f"compare {own} {fresh} --workdir={out}/compare/bases" in first.stdout
    again = run(checkout, str(out))
    assert again.stdout.count("RUN") == 4
    assert "weight_types/e2e_nlg: done before" in again.stdout
    # The seconds of both starts are counted, and those of the failed ones are not among the sum.
    rows = [line.split("\t") for line in (out / "seconds.tsv").read_text().splitlines()]
    assert len(rows) == 17 + 4
    assert sum(name == "rank/sst2" and outcome == "failed" for name, _, outcome in rows) == 2
    assert "13 studies are finished" in again.stdout


def test_some_studies_can_be_named(checkout):
    done = run(checkout, str(checkout / "out"), "rank/e2e_nlg", "subspace")
    assert done.returncode == 0
    assert done.stdout.count("RUN") == 2
    assert json.loads((checkout / "out" / "subspace" / "results.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a directory"),
        (("out", "ranks"), "there is no study ranks; known: target_modules/e2e"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(arguments, message, checkout):
    done = run(checkout, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "RUN" not in done.stdout


def test_every_study_has_its_experiment_and_its_config():
    listed = SCRIPT.read_text().split('studies="')[1].split('"')[0]
    rows = re.findall(r"^(\w+)(?:/\w+)? +(\w+\.py)", listed, re.MULTILINE)
    assert len(rows) == 16
    for experiment, config in rows:
        assert (ROOT / "experiments" / f"{experiment}.py").exists()
        assert (ROOT / "configs" / config).exists()
