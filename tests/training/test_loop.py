import io
import math
import os
import signal

import jax
import numpy as np
import pytest
from rich.console import Console

from lora_jax import training
from lora_jax.training.metrics import read_rows
from lora_jax.training.watch import count_tokens
from tests.training import toy


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


def test_the_batch_of_an_unsound_step_is_saved(tmp_path):
    with pytest.raises(FloatingPointError, match=r"Its batch is in .*8-0\.npz\. Lower the"):
        toy.run(20, tmp_path, data_iterator=Poisoned(at=8, number=None), console=quiet())
    data = toy.data()
    for _ in range(8):
        expected = next(data)
    with np.load(tmp_path / "bad_batches" / "8-0.npz") as saved:
        np.testing.assert_array_equal(saved["y"], expected["y"])
        assert np.isnan(saved["x"]).all()


class Hiccup(Signalling):
    """Data of which one batch, that of step `at`, is not a number."""

    def __next__(self):
        self._left -= 1
        batch = next(self._iterator)
        return {**batch, "x": batch["x"] * math.nan} if self._left == 0 else batch


def test_an_unsound_step_is_skipped_if_so_asked_and_counted(tmp_path):
    console = quiet()
    data = Hiccup(at=8, number=None)
    result = toy.run(12, tmp_path, data_iterator=data, on_nonfinite="skip", console=console)
    assert "the loss is nan at step 8 (grad_norm nan): left out. Its batch is in" in (
        console.file.getvalue()
    )
    assert [row.get("skipped", 0) for row in result.rows] == 7 * [0] + 5 * [1]
    assert result.rows[7]["loss"] is None
    assert np.isfinite(result.last("loss"))


def test_a_run_that_stopped_at_an_unsound_step_may_go_on_without_it(tmp_path):
    whole = toy.run(
        12, data_iterator=Hiccup(at=8, number=None), on_nonfinite="skip", console=quiet()
    )
    with pytest.raises(FloatingPointError, match="on_nonfinite = 'skip'"):
        toy.run(12, tmp_path, data_iterator=Hiccup(at=8, number=None), console=quiet())
    again = Hiccup(at=2, number=None)  # the second after step 6
    resumed = toy.run(12, tmp_path, data_iterator=again, on_nonfinite="skip", console=quiet())
    assert_same_run(resumed, whole)


def test_a_run_of_which_nothing_is_left_ends():
    data = Poisoned(at=1, number=None)
    with pytest.raises(FloatingPointError, match=r"at step 50 .*, the last of 50 in a row\."):
        toy.run(80, data_iterator=data, on_nonfinite="skip", console=quiet())


def test_the_average_is_evaluated_if_so_asked():
    step, state, frozen = toy.build(4, ema=0.5)
    run = lambda **options: training.train(
        step, jax.tree.map(jax.numpy.copy, state), frozen, toy.data(), steps=4, **options
    )
    plain = run(evaluate=evaluate, console=quiet())
    average = training.averaged(plain.state.trainable, plain.state.opt_state)
    result = run(evaluate=evaluate, evaluate_average=True, console=quiet())
    assert result.last("eval/scale") == evaluate(average)["scale"]
    assert result.last("eval/scale") != plain.last("eval/scale")
    with pytest.raises(ValueError, match=r"set optimizer\.ema"):
        toy.run(4, evaluate=evaluate, evaluate_average=True, console=quiet())


SCORES = {2: 0.5, 4: 0.7, 6: 0.6, 8: 0.7, 10: 0.1, 12: 0.9}


class Scored:
    """An evaluation with given values."""

    def __init__(self, start=0):
        self._step = start

    def __call__(self, variables):
        self._step += 2
        return {"accuracy": SCORES[self._step]}


def run_scored(steps, workdir, start=0, patience=0, **options):
    best = training.Best(metric="accuracy", patience=patience)
    options = {"evaluate": Scored(start), "evaluate_every": 2, "best": best, **options}
    return toy.run(steps, workdir, **{"console": quiet(), **options})


def names(directory):
    return sorted((path.name for path in directory.iterdir()), key=int)


def test_the_best_checkpoint_is_kept_apart_from_the_newest(tmp_path):
    result = run_scored(10, tmp_path)
    assert names(tmp_path / "best") == ["4"]
    assert names(tmp_path / "checkpoints") == ["9", "10"]
    iterator = toy.data()
    with training.Checkpoints(tmp_path / "best", toy.identity()) as checkpoints:
        restored = checkpoints.restore(result.state, iterator)
    expected = toy.run(10, data_iterator=toy.data(), evaluate=None, console=quiet())
    assert int(restored.step) == 4
    assert iterator.get_state() == {"next_index": 4}
    assert expected.state.step == result.state.step


def test_patience_ends_a_run_and_resuming_does_not_begin_it_again(tmp_path):
    console = quiet()
    result = run_scored(12, tmp_path, patience=3, console=console)
    assert int(result.state.step) == 10
    said = "stopped early, after step 10: accuracy was not better in 3 evaluations"
    assert said in console.file.getvalue()
    assert names(tmp_path / "checkpoints") == ["9", "10"]
    console = quiet()
    assert_same_run(run_scored(12, tmp_path, patience=3, console=console), result)
    assert said in console.file.getvalue()


def test_a_best_checkpoint_of_steps_that_come_again_does_not_stand_in_their_way(tmp_path):
    whole = run_scored(8, tmp_path, checkpoint_every=1, keep=9)
    for step in range(3, 9):  # as if killed when step 4 was saved as the best one only
        (tmp_path / "checkpoints" / str(step)).rename(tmp_path / f"gone-{step}")
    (tmp_path / "best" / "4").rename(tmp_path / "best" / "6")
    resumed = run_scored(8, tmp_path, start=2, checkpoint_every=1, keep=9)
    assert names(tmp_path / "best") == ["4"]
    assert_same_run(resumed, whole)


def test_a_metric_that_is_not_evaluated_is_refused_with_those_that_are(tmp_path):
    best = training.Best(metric="f1")
    with pytest.raises(ValueError, match=r"best\.metric = 'f1': .* nearest: accuracy"):
        run_scored(4, tmp_path, best=best)


def test_whether_to_resume_may_be_said(tmp_path):
    with pytest.raises(ValueError, match=r"'must', and .*checkpoints holds no checkpoint"):
        toy.run(3, tmp_path, resume="must", console=quiet())
    toy.run(3, tmp_path, resume="never", console=quiet())
    with pytest.raises(ValueError, match=r"'never', and .* holds a checkpoint of step 3: choose"):
        toy.run(6, tmp_path, resume="never", console=quiet())
    assert int(toy.run(6, tmp_path, resume="must", console=quiet()).state.step) == 6


def test_a_trace_of_three_steps_is_written(tmp_path):
    toy.run(7, tmp_path, profile=True, console=quiet())
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


def test_a_trace_ends_with_a_run_that_is_too_short_for_it(tmp_path):
    toy.run(4, tmp_path, profile=True, console=quiet())
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


class Collected:
    """A sink that keeps what it is told."""

    def __init__(self):
        self.told = []

    def open(self, workdir, step):
        self.told.append(("open", step))

    def write(self, row):
        self.told.append(row)

    def close(self):
        self.told.append("close")


def test_sinks_take_every_row_and_are_closed_whatever_happens(tmp_path):
    sink = Collected()
    result = toy.run(3, tmp_path, sinks=[sink], evaluate=evaluate, console=quiet())
    assert sink.told == [("open", 0), *result.rows, "close"]
    sink = Collected()
    data = Poisoned(at=2, number=None)
    with pytest.raises(FloatingPointError):
        toy.run(6, tmp_path, sinks=[sink], data_iterator=data, console=quiet())
    assert (sink.told[0], sink.told[-1]) == (("open", 3), "close")


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
