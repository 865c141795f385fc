"""Runs that are killed, signalled or starved of disk end with the bits of one that was not."""

import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lora_jax.training.metrics import read_rows

ROOT = Path(__file__).parent.parent.parent
STEPS = 66

pytestmark = pytest.mark.slow


def run(workdir, death=None):
    command = [sys.executable, "-m", "tests.training.mortal", str(workdir), str(STEPS)]
    command += [death] if death else []
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    done = run(workdir)
    assert done.returncode == 0, done.stderr
    return workdir


def assert_same_run(workdir, whole):
    with np.load(whole / "final.npz") as expected, np.load(workdir / "final.npz") as found:
        assert found.files == expected.files
        assert any("average" in path for path in found.files)
        for path in expected.files:
            np.testing.assert_array_equal(found[path], expected[path], err_msg=path)
    assert numbers(workdir) == numbers(whole)
    for folder in ("checkpoints", "best"):
        names = lambda run, folder=folder: sorted(path.name for path in (run / folder).iterdir())
        assert names(workdir) == names(whole)


def numbers(workdir):
    rows = read_rows(workdir / "metrics.jsonl")
    return [{name: x for name, x in row.items() if name != "seconds"} for row in rows]


def ten_deaths():
    """One in each tenth of the run, at a random step, in the places by turns."""
    chance = random.Random(0)
    places = ["data", "step", "save", "best", "renamed"] * 2
    chance.shuffle(places)
    every = {"save": 3, "renamed": 3, "best": 2}
    for tenth, place in enumerate(places):
        steps = range(6 * tenth + 4, 6 * tenth + 10)
        due = [step for step in steps if step % every.get(place, 1) == 0]
        yield f"{place}:{chance.choice(due)}"


def test_a_run_killed_ten_times_ends_with_the_bits_of_one_that_was_not(tmp_path, whole):
    for death in ten_deaths():
        killed = run(tmp_path, death)
        assert killed.returncode == -signal.SIGKILL, f"{death}: {killed.stdout}{killed.stderr}"
    assert run(tmp_path).returncode == 0
    assert_same_run(tmp_path, whole)


def test_a_run_that_was_told_to_end_and_whose_disk_filled_up_loses_nothing(tmp_path, whole):
    disk = tmp_path / "disk"
    disk.mkdir()
    small = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(small, check=False).returncode:
        pytest.skip("mounting a disk of 4 MiB needs root")
    workdir = disk / "run"
    try:
        ended = run(workdir, "sigterm:14")
        assert ended.returncode == 0, ended.stderr
        assert "SIGTERM: stopped after step 14 of 66" in ended.stdout
        starved = run(workdir, "full:31")
        assert starved.returncode == 1
        assert "No space left" in starved.stderr or "could not be written" in starved.stderr
        (workdir / "filler").unlink()
        done = run(workdir)
        assert done.returncode == 0, done.stderr
        # The save of step 30 may or may not have been done when the disk was full.
        assert re.search("resuming after step (27|30) of 66", done.stdout)
        assert_same_run(workdir, whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
