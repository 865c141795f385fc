import io
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from lora_jax.training.metrics import read_rows
from lora_jax.training.watch import count_tokens
from tests.training import toy

ROOT = Path(__file__).parent.parent.parent


def quiet():
    return Console(file=io.StringIO(), width=200)


def numbers(rows):
    """The rows without their timings, which no two runs share."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def assert_same_run(found, expected):
    found_arrays, expected_arrays = toy.arrays(found.state), toy.arrays(expected.state)
    for path, x in expected_arrays.items():
        np.testing.assert_array_equal(found_arrays[path], x, err_msg=path)
    assert numbers(found.rows) == numbers(expected.rows)


def evaluate(variables):
    return {"scale": float(variables["head"]["scale"].sum())}


class Signalling:
    """Data that sends this process a signal with one of its batches."""

    def __init__(self, at, number):
        self._iterator, self._left, self._number = toy.data(), at, number
        self.get_state, self.set_state = self._iterator.get_state, self._iterator.set_state

    def __next__(self):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._number)
        return next(self._iterator)


def test_training_lowers_the_loss_and_logs_every_step():
    result = toy.run(60, console=quiet())
    losses = [row["loss"] for row in result.rows]
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    assert result.rows[0].keys() == {
        *("step", "loss", "grad_norm", "lr", "worst", "seconds", "tokens")
    }
    assert result.last("loss") == losses[-1]
    assert result.best("loss", min) == (1 + int(np.argmin(losses)), min(losses))


def test_an_unknown_metric_is_an_error_with_those_there_are():
    with pytest.raises(ValueError, match=r"no row has 'eval/f1'; there are \['grad_norm', 'loss'"):
        toy.run(2, console=quiet()).last("eval/f1")


def test_evaluation_comes_when_due_and_at_the_end():
    result = toy.run(10, evaluate=evaluate, evaluate_every=4, console=quiet())
    assert [row["step"] for row in result.rows if "eval/scale" in row] == [4, 8, 10]
    assert result.last("eval/scale") == evaluate({"head": result.state.trainable["head"]})["scale"]


def test_an_evaluation_that_is_not_a_number_is_logged_as_null():
    console = quiet()
    result = toy.run(3, evaluate=lambda _: {"f1": math.nan}, console=console)
    assert result.rows[-1] == {"step": 3, "eval/f1": None}
    assert "step 3 | f1 nan" in console.file.getvalue()


def test_the_step_is_compiled_once_in_a_run_and_once_in_its_resumption(tmp_path):
    compiled = []

    def note(event, _, fun_name="", **__):
        if "backend_compile" in event and fun_name == "jit(step)":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        toy.run(6, tmp_path, evaluate=evaluate, evaluate_every=2, console=quiet())
        assert len(compiled) == 1
        (tmp_path / "checkpoints" / "6").rename(tmp_path / "gone")
        toy.run(6, tmp_path, evaluate=evaluate, evaluate_every=2, console=quiet())
        assert len(compiled) == 2
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_says_how_to_resume(tmp_path, number):
    options = {"evaluate": evaluate, "evaluate_every": 5}
    uninterrupted = toy.run(12, tmp_path / "a", console=quiet(), **options)
    console = quiet()
    signalling = Signalling(at=7, number=number)
    with pytest.raises(SystemExit) as stopped:
        toy.run(12, tmp_path / "b", data_iterator=signalling, console=console, **options)
    assert stopped.value.code == (0 if number == signal.SIGTERM else 130)
    said = console.file.getvalue()
    assert f"{number.name}: stopped after step 7 of 12. Saved in {tmp_path / 'b'}" in said
    assert "the same command resumes" in said
    resumed = toy.run(12, tmp_path / "b", console=console, **options)
    assert "resuming after step 7 of 12" in console.file.getvalue()
    assert_same_run(resumed, uninterrupted)
    assert numbers(read_rows(tmp_path / "b" / "metrics.jsonl")) == numbers(uninterrupted.rows)


def test_signals_act_as_before_once_training_is_over():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        toy.run(9, data_iterator=Signalling(at=2, number=signal.SIGTERM), console=quiet())
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_finished_run_comes_back_as_it_was(tmp_path):
    first = toy.run(5, tmp_path, console=quiet())
    assert_same_run(toy.run(5, tmp_path, console=quiet()), first)


class Poisoned(Signalling):
    """Data whose batch number `at`, and every one after it, is not a number."""

    def __next__(self):
        self._left -= 1
        batch = next(self._iterator)
        return {**batch, "x": batch["x"] * math.nan} if self._left <= 0 else batch


def test_a_loss_that_is_not_finite_stops_and_names_the_step(tmp_path):
    data = Poisoned(at=8, number=None)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 8 \(grad_norm nan\)"):
        toy.run(20, tmp_path, data_iterator=data, checkpoint_every=2, console=quiet())
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == list(range(1, 8))
    assert (tmp_path / "checkpoints" / "6").exists()
    assert not (tmp_path / "checkpoints" / "8").exists()


def test_a_checkpoint_of_another_run_is_refused_before_any_step(tmp_path):
    toy.run(3, tmp_path, console=quiet())
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match="base: found abc, asked for xyz"):
        toy.run(6, tmp_path, identity=toy.identity(base="xyz"), console=quiet())
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_workdir_that_cannot_be_written_is_refused_before_any_step(tmp_path):
    (tmp_path / "run").write_text("not a directory")
    data = toy.data()
    before = data.get_state()
    with pytest.raises(OSError, match="cannot write"):
        toy.run(3, tmp_path / "run", data_iterator=data, console=quiet())
    assert data.get_state() == before


def test_tokens_are_those_of_the_mask():
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    assert count_tokens({"ids": np.zeros((2, 3)), "mask": mask}) == 3
    assert count_tokens({"x": np.zeros((4, 5))}) == 4


def start(workdir, steps):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.toy", str(workdir), str(steps)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )


def final_arrays(workdir):
    with np.load(workdir / "final.npz") as arrays:
        return dict(arrays)


@pytest.mark.slow
def test_a_run_killed_at_random_steps_ends_with_the_bits_of_one_that_was_not(tmp_path):
    steps, chance = 60, random.Random(0)
    assert start(tmp_path / "whole", steps).wait() == 0
    metrics = tmp_path / "killed" / "metrics.jsonl"
    for kill_after in sorted(chance.sample(range(2, steps - 10), 3)):
        process = start(tmp_path / "killed", steps)
        while process.poll() is None and len(read_rows(metrics)) < kill_after:
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert start(tmp_path / "killed", steps).wait() == 0

    whole, killed = final_arrays(tmp_path / "whole"), final_arrays(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    for path, x in whole.items():
        np.testing.assert_array_equal(killed[path], x, err_msg=path)
    assert numbers(read_rows(metrics)) == numbers(read_rows(tmp_path / "whole" / "metrics.jsonl"))
