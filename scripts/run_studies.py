"""Runs the studies of scripts/run_studies.sh, some beside each other, and says what they found."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parent.parent
WHOLE = "all of a start"  # among the names in seconds.tsv


class Study(NamedTuple):
    """One run of an experiment.

    Attributes:
      name: its directory; the experiment comes first.
      arguments: of the experiment; OUT stands for the directory of all studies.
      needs: studies that come before it.
      times: what it writes when it has measured latency. Until then all others are held.
    """

    name: str
    arguments: str
    needs: tuple[str, ...] = ()
    times: str = ""


def study(name: str, config: str, flags: str = "", **more: Any) -> Study:
    """A study by a file of configs/."""
    return Study(name, f"--config=configs/{config} {flags}", **more)


TIMES: dict[str, Any] = {"times": "latency.json"}
# The most telling first. The rates that target_modules chooses for one task serve for others too.
RATES: dict[str, Any] = {
    "flags": "--config.rates_of=OUT/target_modules/relevancy",
    "needs": ("target_modules/relevancy",),
    **TIMES,
}
OURS = "--config.model.path=OUT/pretrain/model"
NEW = f"{OURS} --config.model.fresh=True"
BASES = ("lora_vs_full/own", "lora_vs_full/fresh")
STUDIES = (
    study("target_modules/e2e", "target_modules.py:e2e", **TIMES),
    study("target_modules/relevancy", "target_modules.py:relevancy", **TIMES),
    study("lora_vs_full/e2e_nlg", "lora_vs_full.py:e2e_nlg"),
    study("pretrain", "pretrain.py"),
    study("learning_rate/e2e_nlg", "learning_rate.py:e2e_nlg"),
    study("rank/e2e_nlg", "rank.py:e2e_nlg"),
    study("weight_types/e2e_nlg", "weight_types.py:e2e_nlg"),
    study("lora_vs_full/own", "lora_vs_full.py:own", OURS, needs=("pretrain",)),
    study("lora_vs_full/fresh", "lora_vs_full.py:own", NEW, needs=("pretrain",)),
    study("lora_vs_full/sst2", "lora_vs_full.py:sst2"),
    study("target_modules/sst2", "target_modules.py:sst2", **RATES),
    study("subspace", "subspace.py"),
    study("task_switching", "task_switching.py"),
    study("target_modules/cola", "target_modules.py:cola", **RATES),
    study("target_modules/rte", "target_modules.py:rte", **RATES),
    study("rank/sst2", "rank.py:sst2"),
    # The one comparison of runs on one task: on weights that are pretrained, and on new ones.
    Study("compare/bases", " ".join(f"OUT/{name}" for name in BASES), BASES),
)


class Running(NamedTuple):
    """A study that runs in a lane of its own: a share of the cores."""

    study: Study
    process: subprocess.Popen[bytes]
    started: float


class Runner:
    """Starts studies, as many beside each other as there are lanes, and keeps their seconds."""

    def __init__(self, out: Path, lanes: Sequence[tuple[int, ...]]) -> None:
        self._out = out
        self._lanes = lanes
        self._cores = sum(lanes, ())
        self._timing: int | None = None  # the lane that measures latency, while others wait
        self._running: dict[int, Running] = {}  # by lane
        self.outcomes: dict[str, str] = {}

    def run(self, studies: Sequence[Study]) -> None:
        """Runs all; one that fails does not stop the others."""
        waiting = list(studies)
        try:
            while waiting or self._running:
                if not (self._start_one(waiting) or self._end_some() or self._timing_ends()):
                    time.sleep(0.2)
        finally:
            for _, process, _ in self._running.values():
                process.terminate()
                process.send_signal(signal.SIGCONT)
            while self._running:
                self._end_some()
                time.sleep(0.2)

    def _start_one(self, waiting: list[Study]) -> bool:
        """Starts the first study that may run now."""
        ahead = {one.name for one in waiting} | {of.study.name for of in self._running.values()}
        free = [lane for lane in range(len(self._lanes)) if lane not in self._running]
        if not free or self._timing is not None:
            return False
        for one in waiting:
            if not ahead & set(one.needs):
                waiting.remove(one)
                self._start(one, free[0])
                return True
        return False

    def _start(self, one: Study, lane: int) -> None:
        place = self._out / one.name
        if (place / "results.json").exists():
            print(f"{one.name}: done before", flush=True)
            self.outcomes[one.name] = "done"
            return
        log = self._log(one)
        log.parent.mkdir(parents=True, exist_ok=True)
        words = shlex.split(one.arguments.replace("OUT", shlex.quote(str(self._out))))
        experiment = f"experiments.{one.name.partition('/')[0]}"
        command = [sys.executable, "-m", experiment, *words, f"--workdir={place}"]
        cores = self._lanes[lane]
        if one.times and not (place / one.times).exists():
            self._timing, cores = lane, self._cores
            for _, process, _ in self._running.values():
                process.send_signal(signal.SIGSTOP)
        print(f"== {one.name}: what it says is in {log}", flush=True)
        keep_to(cores)  # which the study inherits
        with log.open("ab") as file:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        keep_to(self._cores)
        self._running[lane] = Running(one, process, time.monotonic())

    def _timing_ends(self) -> bool:
        """Sends a study that has measured latency into its lane, and lets the others go on."""
        if self._timing is None:
            return False
        one, process, _ = self._running[self._timing]
        if not (self._out / one.name / one.times).exists():
            return False
        keep_to(self._lanes[self._timing], process.pid)
        self._go_on()
        return True

    def _go_on(self) -> None:
        self._timing = None
        for of in self._running.values():
            of.process.send_signal(signal.SIGCONT)

    def _end_some(self) -> bool:
        """Takes leave of the studies that have ended."""
        ended = [lane for lane, of in self._running.items() if of.process.poll() is not None]
        for lane in ended:
            one, process, started = self._running.pop(lane)
            if lane == self._timing:
                self._go_on()
            outcome = "failed"
            if process.returncode == 0:
                # One that was told to stop ends in order, but has no results yet.
                done = (self._out / one.name / "results.json").exists()
                outcome = "done" if done else "stopped"
            self.outcomes[one.name] = outcome
            seconds = note_seconds(self._out, one.name, started, outcome)
            print(f"{one.name}: {outcome} after {seconds} s", flush=True)
            if outcome == "failed":
                print(*self._log(one).read_text(errors="replace").splitlines()[-3:], sep="\n")
        return bool(ended)

    def _log(self, one: Study) -> Path:
        return self._out / f"{one.name.replace('/', '_')}.log"


def keep_to(cores: Sequence[int], process: int = 0) -> None:
    """Keeps this or another process to its share of the cores, where the system can do so."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        return
    threads = Path(f"/proc/{process}/task")
    for thread in [int(path.name) for path in threads.iterdir()] if process else [0]:
        with contextlib.suppress(ProcessLookupError):  # it may have ended by now
            os.sched_setaffinity(thread, cores)


def share_cores(jobs: int | None) -> list[tuple[int, ...]]:
    """The cores of each lane; by default one for each of up to four.

    Small arrays keep one core busy and two waiting for each other, so that two studies on a core
    each are done sooner than one after another on both.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [()] * (jobs or 1)
    cores = sorted(os.sched_getaffinity(0))
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu"
    count = min(jobs or (4 if on_cpu else 1), len(cores))
    ends = [len(cores) * lane // count for lane in range(count + 1)]
    return [tuple(cores[a:b]) for a, b in itertools.pairwise(ends)]


def note_seconds(out: Path, name: str, started: float, outcome: str) -> int:
    """Adds a line to seconds.tsv."""
    seconds = round(time.monotonic() - started)
    with (out / "seconds.tsv").open("a") as file:
        file.write(f"{name}\t{seconds}\t{outcome}\n")
    return seconds


def summarise(out: Path, names: Sequence[str]) -> None:
    """Prints what each finished study found, its page, and the seconds of all its starts."""
    seconds: Counter[str] = Counter()
    for line in (out / "seconds.tsv").read_text().splitlines():
        name, took, _ = line.split("\t")
        seconds[name] += int(took)
    for name in names:
        found = json.loads((out / name / "results.json").read_text()).get("finding", "")
        took = f"{seconds[name]:,} s" if name in seconds else "time not known"
        print(f"\n{name} ({took}): {found}\n  {out / name / 'report.html'}")
    print(f"\n{len(names)} studies are finished in {out}: {seconds[WHOLE]:,} s in all starts")


def main(arguments: Sequence[str]) -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("out", nargs="?")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--jobs", type=int)
    options = parser.parse_args(arguments)
    if options.out is None:
        refuse("name a directory for the results: scripts/run_studies.sh OUTDIR [STUDY...]")
    known = [one.name for one in STUDIES]
    for name in options.names:
        if name not in known:
            refuse(f"there is no study {name}; known: {' '.join(known)}")
    if options.jobs is not None and options.jobs < 1:
        refuse(f"--jobs={options.jobs}: at least 1 is needed")
    out, started = Path(options.out).resolve(), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    runner = Runner(out, share_cores(options.jobs))
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        runner.run([one for one in STUDIES if not options.names or one.name in options.names])
    finally:
        note_seconds(out, WHOLE, started, "ended")
    summarise(out, [name for name in known if runner.outcomes.get(name) == "done"])
    left = [f"{n} ({how})" for n, how in runner.outcomes.items() if how != "done"]
    if left:
        message = "the same command goes on with them"
        print(f"not finished: {' '.join(left)}; {message}", file=sys.stderr)
    return 1 if left else 0


def refuse(reason: str) -> NoReturn:
    """Ends with what is wrong with the command."""
    print(f"error: {reason}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
