# mypy: disable-error-code="import-not-found, import-untyped"
"""What each method costs: a training step of every method beside plain LoRA, and beside PEFT's.

    python scripts/bench_methods.py --rounds 10

prints docs/measured/methods.md. The model is a Llama with biases, of random weights and the
same sizes in both; a step is the gradient of a next-token loss (forward and backward, no
optimiser). All contenders take turns within every round, so a noisy machine disturbs them alike;
medians are shown, with ratios to LoRA: PEFT's to PEFT's own. PEFT runs eagerly, as it is used, on
as many threads as JAX. Without torch and peft its columns are empty.

Memory: each contender runs once more in a process of its own, which gives freed memory back to the
system at once, holds the model, takes a step, and then reads by how much two further steps raise
the highest resident memory. Beside ours stand the temporary bytes that the compiled program asks
for.

Aim: DoRA at most 1.25 times LoRA.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping

import jax

from scripts.bench_methods_contenders import (
    METHODS,
    Shape,
    Step,
    has_peft,
    make_peft_step,
    make_step,
)
from scripts.bench_processes import with_root

AIM = 1.25


# ---------------------------------------------------------------------------------------------
# Measuring


@dataclasses.dataclass
class Cost:
    """One contender: seconds of its steps, and bytes where they are known.

    Attributes:
        temporary: that the compiled program asks for.
        resident: by which steps raise the highest resident memory.
        seconds: of each step.
    """

    temporary: int | None = None
    resident: int | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)


def measure(names: list[str], shape: Shape, rounds: int) -> dict[str, Cost]:
    """Lets all contenders take turns, then looks at the memory of each; PEFT's are "PEFT NAME"."""
    steps, costs = {}, {}
    for name in names:
        steps[name], temporary = make_step(name, shape)
        costs[name] = Cost(temporary)
    for name in names if has_peft() else ():
        if METHODS[name].kind is not None:
            steps[f"PEFT {name}"] = make_peft_step(name, shape)
            costs[f"PEFT {name}"] = Cost()
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            costs[name].seconds.append(time.perf_counter() - start)
    steps.clear()
    for name, cost in costs.items():
        cost.resident = resident_in_own_process(name, shape)
    return costs


def resident_in_own_process(name: str, shape: Shape) -> int | None:
    """What `resident` measures of a contender, in a fresh process."""
    given = json.dumps([name, dataclasses.asdict(shape)])
    command = [sys.executable, __file__, "--alone", given]
    # Freed blocks go back to the system, or a step is served from what its warm-up left.
    environment = with_root({"MALLOC_MMAP_THRESHOLD_": "65536"})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {name} failed:\n{done.stderr[-2000:]}")
    found: int | None = json.loads(done.stdout.splitlines()[-1])
    return found


def resident(step: Step) -> int | None:
    """Bytes by which two steps raise the highest resident memory; None where that is not told."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the highest is now the present
        before = _highest()
        step()
        step()
        return _highest() - before
    except OSError:
        return None


def _highest() -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def alone(given: str) -> None:
    """Prints the memory of one contender; what `resident_in_own_process` runs."""
    name, sizes = json.loads(given)
    shape = Shape(**sizes)
    if name.startswith("PEFT "):
        step = make_peft_step(name.removeprefix("PEFT "), shape)
    else:
        step, _ = make_step(name, shape)
    print(json.dumps(resident(step)))


# ---------------------------------------------------------------------------------------------
# Reporting

HEADER = """\
| | step ms | to LoRA | program MiB | resident MiB | PEFT ms | to PEFT's LoRA | PEFT resident MiB \
| time to PEFT's |
|---|---|---|---|---|---|---|---|---|"""


def table(costs: Mapping[str, Cost]) -> str:
    """A Markdown table, with ratios to LoRA, and of PEFT's methods to PEFT's LoRA."""
    median = {name: statistics.median(cost.seconds) for name, cost in costs.items()}
    rows = [HEADER]
    for name, cost in costs.items():
        if name.startswith("PEFT "):
            continue
        own = [_ms(median[name]), f"{median[name] / median['LoRA']:.2f}"]
        own += [_mib(cost.temporary), _mib(cost.resident)]
        beside = [""] * 4
        if theirs := costs.get(f"PEFT {name}"):
            seconds = median[f"PEFT {name}"]
            beside = [_ms(seconds), f"{seconds / median['PEFT LoRA']:.2f}", _mib(theirs.resident)]
            beside += [f"{median[name] / seconds:.2f}"]
        rows.append(f"| {' | '.join([name, *own, *beside])} |")
    return "\n".join(rows)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}"


def _mib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:.0f}"


def section(costs: Mapping[str, Cost], shape: Shape, rounds: int) -> str:
    """All that docs/measured/methods.md says of it."""
    from scripts.bench_machine import machine

    versions = [f"{name} {importlib.metadata.version(name)}" for name in _measured_packages()]
    ratio = statistics.median(costs["DoRA"].seconds) / statistics.median(costs["LoRA"].seconds)
    return f"""\
{", ".join([machine(), *versions])}.
{shape}; rank 8 on all seven projections where not said otherwise.
Medians of {rounds} rounds in which all contenders took turns.

{table(costs)}

DoRA's step takes {ratio:.2f} times LoRA's (aim: at most {AIM})."""


def _measured_packages() -> list[str]:
    return ["torch", "transformers", "peft"] if has_peft() else []


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--dim", type=int, default=512, help="width, a multiple of 64")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--scan", action="store_true", help="scan over our layers")
    parser.add_argument("--rounds", type=int, default=10, help="steps of each contender")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone is not None:
        alone(options.alone)
        return
    if options.rounds < 1 or options.layers < 1 or options.dim < 64 or options.dim % 64:
        parser.error("--rounds and --layers must be at least 1, --dim a multiple of 64")
    names = list(dict.fromkeys(["LoRA", "DoRA", *options.methods]))
    shape = Shape(dim=options.dim, layers=options.layers, scan=options.scan)
    # The processes that measure memory take the programs that were compiled for the time.
    with tempfile.TemporaryDirectory() as programs:
        os.environ |= {
            "JAX_COMPILATION_CACHE_DIR": programs,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        jax.config.update("jax_compilation_cache_dir", programs)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        costs = measure(names, shape, options.rounds)
    print(section(costs, shape, options.rounds))


if __name__ == "__main__":
    sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))
    main()
