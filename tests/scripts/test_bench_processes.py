"""Contenders in processes of their own: they take turns, and one that fails says why."""

import sys

import pytest

from scripts.bench_processes import Command, take_turns

WORKER = """
import sys
from scripts.bench_processes import answer

turns = []

def work():
    print("a library says something", flush=True)
    turns.append(0)
    with open(sys.argv[1], "a") as file:
        file.write(sys.argv[2])
    return float(len(turns))

answer(lambda: (work, 7.0), threads=1)
"""


def command(path, name, code=WORKER):
    return Command([sys.executable, "-c", code, str(path), name], {"PYTHONSAFEPATH": "1"})


def test_contenders_take_turns_and_one_that_fails_says_why(tmp_path):
    log = tmp_path / "log"
    commands = {
        "first": command(log, "1"),
        "broken": command(log, "x", "raise ValueError('no such library')"),
        "second": command(log, "2"),
    }
    found, failed = take_turns(commands, rounds=2)
    assert log.read_text() == "111222" + "1212"  # each three times before the turns, then by turns
    assert failed == {"broken": "ValueError: no such library"}
    assert [(one.told, one.loss, len(one.seconds)) for one in found.values()] == [(7.0, 1.0, 2)] * 2
    assert all(one.start > 10**6 < one.peak for one in found.values())


def test_who_takes_too_long_has_no_turns(tmp_path):
    found, _ = take_turns({"slow": command(tmp_path / "log", "1")}, rounds=3, patience=-1)
    assert len(found["slow"].seconds) == 1
    assert found["slow"].seconds[0] > 0
    assert (tmp_path / "log").read_text() == "111"
    assert found["slow"].compile == pytest.approx(0, abs=1)
