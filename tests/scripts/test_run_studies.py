"""The script of all studies: what runs beside what, what comes after a failure, and the end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.run_studies import STUDIES

ROOT = Path(__file__).parent.parent.parent


STUDY = """
import json, os, pathlib, sys, time

name = sys.argv[0].rpartition("/")[2]
flags = dict(flag.split("=", 1) for flag in sys.argv[1:] if "=" in flag)
place = pathlib.Path(flags["--workdir"])
with open("runs", "a") as file:
    file.write(f"start {place} {os.sched_getaffinity(0)} {sys.argv[1:]}\\n")
if name == "target_modules.py":
    place.mkdir(parents=True, exist_ok=True)
    time.sleep(0.3)
    (place / "latency.json").touch()
    with open("runs", "a") as file:
        file.write(f"timed {place}\\n")
time.sleep(0.8)
with open("runs", "a") as file:
    file.write(f"end {place}\\n")
if "sst2" in flags.get("--config", ""):
    sys.exit("it broke")
if "cola" in flags.get("--config", ""):
    sys.exit(0)  # as one that was told to stop
place.mkdir(parents=True, exist_ok=True)
(place / "results.json").write_text(json.dumps({"finding": "found by " + name}))
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy of the scripts in a place of its own, whose studies only write results."""
    for name in ("run_studies.sh", "run_studies.py", "environment.sh"):
        text = (ROOT / "scripts" / name).read_text()
        path = tmp_path / "scripts" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "data").mkdir()
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").touch()
    for one in STUDIES:
        experiment = one.name.partition("/")[0]
        (tmp_path / "experiments" / f"{experiment}.py").write_text(STUDY)
    # The environment is there: what makes it is tested with scripts/environment.sh.
    with (tmp_path / "scripts" / "environment.sh").open("a") as file:
        file.write(f"\nensure_environment() {{ venv_python={sys.executable}; }}\n")
        file.write("ensure_minilm() { :; }\n")
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
    first = run(checkout, str(out), "--jobs=3")
    assert first.returncode == 1
    told = first.stderr.split("not finished: ")[1]
    for name in ("lora_vs_full", "target_modules", "rank"):
        assert f"{name}/sst2 (failed)" in told
    assert "target_modules/cola (stopped)" in told
    assert first.stdout.count("it broke") == 3, "the end of what a failed study said"
    assert re.search(r"task_switching \(\d+ s\): found by task_switching.py", first.stdout)
    runs = (checkout / "runs").read_text()
    assert f"--config.rates_of={out}/target_modules/relevancy" in runs
    assert f"'--config.model.path={out}/pretrain/model', '--config.model.fresh=True'" in runs
    assert f"'{out}/lora_vs_full/own', '{out}/lora_vs_full/fresh', '--workdir={out}/comp" in runs
    (checkout / "runs").unlink()
    again = run(checkout, str(out))
    assert (checkout / "runs").read_text().count("start") == 4
    assert "weight_types/e2e_nlg: done before" in again.stdout
    # The seconds of both starts are counted.
    rows = [line.split("\t") for line in (out / "seconds.tsv").read_text().splitlines()]
    assert len(rows) == 17 + 4 + 2
    assert sum(name == "rank/sst2" and outcome == "failed" for name, _, outcome in rows) == 2
    assert "13 studies are finished" in again.stdout


def test_studies_share_the_cores_but_for_latency_and_wait_for_what_they_need(checkout):
    names = ("target_modules/e2e", "pretrain", "subspace", "lora_vs_full/own", "lora_vs_full/fresh")
    names = (*names, "target_modules/relevancy")
    done = run(checkout, str(checkout / "out"), *names, "--jobs=2", JAX_PLATFORMS="cpu")
    assert done.returncode == 0
    events = [line.split(maxsplit=2) for line in (checkout / "runs").read_text().splitlines()]
    order = [(what, path.split("/out/")[1]) for what, path, *_ in events]
    assert order[:2] == [("start", names[0]), ("timed", names[0])], "alone"
    assert order[2:4] == [("start", names[5]), ("timed", names[5])], "the first is held meanwhile"
    assert order.index(("start", "pretrain")) < order.index(("end", names[5])), "then beside others"
    assert order.index(("start", "subspace")) < order.index(("end", "pretrain"))
    for name in names[3:5]:
        assert order.index(("end", "pretrain")) < order.index(("start", name))
    cores = {path.split("/out/")[1]: rest[0].split("}")[0] for what, path, *rest in events if rest}
    everything = str(os.sched_getaffinity(0)).rstrip("}")
    assert cores[names[0]] == everything
    if len(os.sched_getaffinity(0)) > 1:
        assert cores["pretrain"] != cores["subspace"]


def test_those_that_run_are_told_to_stop_with_the_script(checkout):
    text = STUDY.replace("time.sleep(0.8)", "time.sleep(60)")
    (checkout / "experiments" / "subspace.py").write_text(text)
    command = [
        "bash",
        str(checkout / "scripts" / "run_studies.sh"),
        str(checkout / "out"),
        "subspace",
    ]
    environment = {**os.environ, "LORA_JAX_DATA": str(checkout / "data")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        while not (checkout / "runs").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "subspace: failed after" in said
    assert "end" not in (checkout / "runs").read_text()


def test_some_studies_can_be_named(checkout):
    done = run(checkout, str(checkout / "out"), "rank/e2e_nlg", "subspace")
    assert done.returncode == 0
    assert (checkout / "runs").read_text().count("start") == 2
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
    assert not (checkout / "runs").exists()


def test_every_study_has_its_experiment_and_its_config():
    for one in STUDIES:
        assert (ROOT / "experiments" / f"{one.name.partition('/')[0]}.py").exists()
        config = re.search(r"--config=(configs/\w+\.py)", one.arguments)
        assert one.name == "compare/bases" or (ROOT / config[1]).exists()
        before = [known.name for known in STUDIES[: STUDIES.index(one)]]
        assert set(one.needs) <= set(before)
