"""Several processes train as one, and end as one."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lora_jax import training

ROOT = Path(__file__).parent.parent.parent


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(count, *arguments):
    """Starts as many processes that share a run; each has one device."""
    coordinator = f"localhost:{free_port()}"
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": coordinator,
        # Nearly all of the time of a tiny model is its compilation, which is so far faster.
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.pod", *map(str, arguments)],
            cwd=ROOT,
            env={
                **os.environ,
                **environment,
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(process),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(count)
    ]


def finish(processes, timeout=300):
    """Waits for all, and returns what each said."""
    try:
        return [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()


def run(count, workdir, steps, *flags):
    processes = start(count, workdir, steps, *flags)
    said = finish(processes)
    assert [process.returncode for process in processes] == [0] * count, said


def numbers(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in row if name not in ("seconds", "lr")} for row in rows]


def assert_same_curve(found, expected):
    assert [sorted(row) for row in found] == [sorted(row) for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    run(1, workdir, 6)
    return numbers(workdir)


@pytest.mark.slow
def test_two_processes_then_four_train_the_curve_of_one(alone, tmp_path):
    """Four go on, on a mesh of their own, from what two saved; below, one from what two saved."""
    run(2, tmp_path, 3)
    run(4, tmp_path, 6, "--fsdp", 2)
    found = numbers(tmp_path)
    assert [row["step"] for row in found] == [1, 2, 3, 3, 4, 5, 6, 6]
    steps = [row for row in found if "loss" in row]
    assert_same_curve([*steps, found[-1]], alone)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step_and_is_resumed(alone, tmp_path):
    processes = start(2, tmp_path, 6, "--signal", 1)
    said = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], said
    assert len(numbers(tmp_path)) < len(alone)
    run(1, tmp_path, 6)
    assert_same_curve(numbers(tmp_path), alone)


@pytest.mark.slow
def test_data_missing_on_one_host_stops_all_with_one_clear_error(tmp_path):
    processes = start(2, tmp_path, 6, "--lacks-data", 1)
    said = finish(processes)
    assert [process.returncode for process in processes] == [1, 1]
    for words in said:
        assert "process 1 of 2, reading the data: train.jsonl is not there" in words
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_others_end_soon_after_one_has_died(tmp_path):
    begun = time.monotonic()
    processes = start(2, tmp_path, 6, "--dies", 1, "--timeout", 20)
    said = finish(processes)
    assert processes[1].returncode == 9
    assert processes[0].returncode != 0
    assert time.monotonic() - begun < 200
    assert "task" in said[0]  # it names the one that is gone


@pytest.mark.slow
def test_a_process_whose_others_do_not_come_says_so_and_ends(tmp_path):
    (only, other) = start(2, tmp_path, 6, "--timeout", 15)
    other.kill()
    other.communicate()
    (said,) = finish([only])
    assert only.returncode == 1
    assert "error: process 0 of 2 has not met the others at localhost:" in said
    assert said.splitlines()[-1].endswith("within 15 s")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"processes": 4}, "needs coordinator, process too"),
        ({"coordinator": "localhost:1", "process": 0}, "needs processes too"),
        (
            {"coordinator": "localhost:1", "processes": 2, "process": 2},
            "process = 2 is none of 2: they count from 0",
        ),
    ],
)
def test_half_an_answer_to_which_process_this_is_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        training.connect(**given)


def test_a_number_that_is_none_is_named(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "four")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES is 'four', which is no number"):
        training.connect()


def test_a_process_that_is_alone_keeps_its_own_error():
    with pytest.raises(KeyError, match="mine"), training.together("reading"):
        raise KeyError("mine")


def test_a_process_that_is_alone_agrees_with_itself():
    assert training.is_first()
    vote = training.processes.Vote()
    assert [vote.highest(n) for n in (0, 15)] == [0, 15]
    assert training.processes.gather(np.arange(3)).tolist() == [[0, 1, 2]]
