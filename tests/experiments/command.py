"""Runs an experiment as a user would, small enough for a test."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

TINY = [
    "--config.task.options.train_per_topic=4",
    "--config.task.options.test_per_topic=2",
    "--config.length=8",
    "--config.batch_size=4",
    "--config.evaluation_batch_size=24",
]


def arguments(name, *flags):
    return [sys.executable, "-m", f"experiments.{name}", *flags]


def environment():
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    return {"JAX_PLATFORMS": "cpu", **cache, **os.environ}


def run(name, *flags, succeeds=True):
    """Runs to the end, and returns what was printed."""
    command = arguments(name, *flags)
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == succeeds, said
    return said


def start(name, *flags):
    """Starts, and goes on while the test does; what is printed can be read from its stdout."""
    return subprocess.Popen(
        arguments(name, *flags),
        cwd=ROOT,
        env={**environment(), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def run_until(is_time, name, *flags):
    """Runs until `is_time()`, then kills the process without a warning."""
    process = start(name, *flags)
    while not is_time():
        assert process.poll() is None, "it ended before it was to be killed"
        time.sleep(0.01)
    process.kill()
    process.communicate()
