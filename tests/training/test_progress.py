import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from lora_jax.training.progress import Progress, Speed, describe, peak_memory

METRICS = {"loss": 0.71, "lr": 9e-4, "grad_norm": 1.234, "tokens": 2048}


def test_a_line_tells_step_eta_loss_rate_gradient_speed_and_memory():
    line = describe(20, 100, METRICS, step_seconds=0.1)
    assert line.startswith(
        "step 20/100 | ETA 0:00:08 | loss 0.7100 | lr 9.00e-04 | grad 1.23 | 20,480 tokens/s | "
    )
    assert line.endswith(" MiB")


def test_a_line_tells_how_much_of_the_peak_is_used():
    line = describe(20, 100, METRICS, step_seconds=0.5, speed=Speed(step=4e12, peak=20e12))
    assert "tokens/s | MFU 40% | " in line


def test_a_step_that_was_left_out_is_told():
    line = describe(3, 9, {**METRICS, "loss": None, "grad_norm": None, "skipped": 2}, 0.5)
    assert "loss nan | lr 9.00e-04 | grad nan" in line
    assert line.endswith(" MiB | 2 left out")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak that Linux keeps")
def test_memory_is_the_peak_of_this_process():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kernel = int(status["VmHWM"].split()[0]) * 1024
    assert abs(peak_memory() - kernel) < 0.02 * kernel


def test_a_log_file_gets_a_plain_line_now_and_then_and_the_last_one():
    out = io.StringIO()
    with Progress(100, console=Console(file=out, width=40), every=3600.0) as progress:
        for step in range(1, 101):
            progress.update(step, {**METRICS, "seconds": 0.1})
    lines = out.getvalue().splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["step 1/100", "step 100/100"]
    assert "\x1b" not in out.getvalue()


def test_the_compiling_step_does_not_count_for_the_eta():
    out = io.StringIO()
    with Progress(100, console=Console(file=out, width=200), every=0.0) as progress:
        for step, seconds in ((1, 60.0), (2, 0.1), (3, 0.1)):
            progress.update(step, {**METRICS, "seconds": seconds})
    shown = [line.split(" | ")[1] for line in out.getvalue().splitlines()]
    assert shown == ["ETA 1:39:00", "ETA 0:00:10", "ETA 0:00:10"]


def test_a_terminal_gets_one_live_line_and_the_notes():
    out = io.StringIO()
    console = Console(file=out, width=150, force_terminal=True)
    with Progress(10, console=console) as progress:
        progress.update(5, {**METRICS, "seconds": 0.1})
        progress.note("step 5 | accuracy 0.8")
    assert "step 5/10" in out.getvalue()
    assert "accuracy 0.8" in out.getvalue()
