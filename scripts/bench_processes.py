"""Contenders of a benchmark in processes of their own, which do their work by turns.

The peak memory of each is then its own, and each may have another Python environment. All of them
wait while one does its work, so that a noisy machine disturbs them alike. This module needs nothing
but the standard library: it is imported in all of these environments.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

ROOT = pathlib.Path(__file__).resolve().parent.parent

Name = TypeVar("Name", bound=Hashable)
Work = Callable[[], float]  # does the work once, and returns what it found, such as a loss


class Command(NamedTuple):
    """What starts a contender: a program with its arguments, and further environment."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = {}


def worker(
    script: str,
    task: Mapping[str, Any],
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> Command:
    """What starts a benchmark as one of its own contenders, by `--worker` and its task as JSON."""
    return Command([python, script, "--worker", json.dumps(task)], environment or {})


@dataclasses.dataclass
class Found:
    """What was measured of a contender.

    Attributes:
        compile: seconds by which the first two times were longer than two more; some compile in
            the second again, for what the first returned.
        told: what the contender tells of itself, before its work.
        loss: what the first time returned.
        seconds: of each turn.
        peak: of resident memory from the third time on, in bytes.
        start: the peak up to the end of the second time, in bytes.
    """

    compile: float
    told: float
    loss: float
    seconds: list[float] = dataclasses.field(default_factory=list)
    peak: int = 0
    start: int = 0


# ---------------------------------------------------------------------------------------------
# In the process of a contender


def answer(make: Callable[[], tuple[Work, float]], threads: int) -> None:
    """Answers each line of standard input: the work is done once, and its seconds are printed.

    Args:
        make: makes the work, not yet compiled, and what is told of it.
        threads: CPU cores to run on.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    work, told = make()
    start = time.perf_counter()
    loss = work()
    work()
    twice = time.perf_counter() - start
    most = forget_peak()
    again = seconds(work)
    compiling = max(twice - 2 * again, 0.0)
    print(json.dumps([compiling, told, loss, [again], peak(), most]), file=answers)
    for _ in sys.stdin:
        taken = seconds(work)
        print(json.dumps([taken, peak()]), file=answers)


def seconds(run: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def forget_peak() -> int:
    """Returns the peak of resident memory and starts it anew, where the system can (Linux)."""
    most = peak()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what loading and compiling freed is no part of a step
    with contextlib.suppress(OSError):
        (pathlib.Path("/proc") / "self" / "clear_refs").write_text("5")
    return most


def peak() -> int:
    """The peak of resident memory in bytes."""
    status = pathlib.Path("/proc") / "self" / "status"
    with contextlib.suppress(OSError, StopIteration):
        lines = status.read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    scale = 1 if sys.platform == "darwin" else 1024
    return scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# ---------------------------------------------------------------------------------------------
# In the process that measures


def take_turns(
    commands: Mapping[Name, Command], rounds: int, patience: float = float("inf")
) -> tuple[dict[Name, Found], dict[Name, str]]:
    """Lets contenders take turns.

    Args:
        commands: what starts each; it calls `answer`.
        rounds: turns of each.
        patience: one that takes longer than so many seconds has no turns: its one time is all.

    Returns:
        What was measured, and of those that could not run the last line of what they said.
    """
    found: dict[Name, Found] = {}
    failed: dict[Name, str] = {}
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, command in commands.items():
            process, errors = stack.enter_context(_started(command))
            if line := process.stdout.readline():  # it has compiled and warmed up
                found[name] = Found(*json.loads(line))
                if found[name].seconds[0] <= patience:
                    found[name].seconds.clear()  # it was no turn
                    processes[name] = process
            else:
                errors.seek(0)
                failed[name] = errors.read().strip().rpartition("\n")[2]
        for _ in range(rounds):
            for name, process in processes.items():
                print("again", file=process.stdin, flush=True)
                taken, most = json.loads(process.stdout.readline())
                found[name].seconds.append(taken)
                found[name].peak = max(found[name].peak, most)
    return found, failed


@contextlib.contextmanager
def _started(command: Command) -> Iterator[Any]:
    """A process that is spoken to line by line, ended in any case; and what it says of errors."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command.arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=with_root(command.environment),
        )
        try:
            yield process, errors
        finally:
            process.kill()
            process.communicate()


def with_root(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment and more, in which `scripts` and the library are found."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, **more}
