# mypy: disable-error-code="import-not-found, import-untyped"
"""What a training step costs beside PEFT: tokens/s, memory, compile time, share of the limit.

    python scripts/bench_training.py --rounds 7

LoRA of rank 8 on queries and values, AdamW, no dropout, on a GPT-2 small (4 x 128 and 8 x 512) and
a RoBERTa base (16 x 128) with random weights, the same in all contenders: lora_jax and PEFT, in
float32 and bfloat16, PEFT also under torch.compile. Each contender lives in a process of its own,
so its peak memory is its own; all of them wait while one takes a step, by turns, so that a noisy
machine disturbs them alike. Medians are shown; one whose step takes longer than --patience (torch
in bfloat16 on a CPU without such instructions) is shown with a single step. The whole output is one
section in Markdown.

Two peaks of resident memory are shown: that of the steps, from the third on, and that of the start
(loading, compiling and the first two steps). In between all of them give freed memory back to the
system. With --levers our own settings are compared in the same way in place of the contenders.

Model FLOP utilisation counts the products of the frozen weights and of attention, forward and
backward, without what is computed again; the limit is the best rate of a plain matrix product in
the same type, of torch or JAX, measured in the same run. Without torch, transformers and peft only
lora_jax is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from scripts.bench_processes import Found, answer, take_turns, worker
from scripts.bench_training_contenders import (
    DTYPES,
    LEVERS,
    QUICK_SHAPES,
    SHAPES,
    Contender,
    Shape,
    Step,
    our_step,
    product_limit,
    save_model,
    their_step,
)

# ---------------------------------------------------------------------------------------------
# One process for each contender


def work(contender: Contender, shape: Shape, directory: str, threads: int) -> None:
    """Takes steps whenever it is asked to."""

    def make() -> tuple[Step, float]:
        if contender.library == "PEFT":
            import torch

            torch.set_num_threads(threads)
            step = their_step(shape, contender, directory)
        else:
            import jax

            jax.config.update("jax_enable_compilation_cache", False)  # or compiling costs nothing
            step = our_step(shape, contender.dtype, directory, LEVERS[contender.lever])
        return step, product_limit(contender, min(2048, 2 * shape.dim))

    answer(make, threads)


def measure(
    shape: Shape,
    contenders: Sequence[Contender],
    rounds: int,
    threads: int,
    patience: float = float("inf"),
) -> tuple[dict[Contender, Found], dict[Contender, str]]:
    """Lets contenders take turns; also tells why some could not.

    One whose step takes longer than `patience` seconds takes no turns: its one step is all.
    """
    with tempfile.TemporaryDirectory() as directory:
        save_model(shape, directory)
        commands = {}
        for one in contenders:
            task: dict[str, Any] = {
                "contender": dataclasses.asdict(one),
                "shape": dataclasses.asdict(shape),
            }
            task |= {"directory": directory, "threads": threads}
            commands[one] = worker(__file__, task, environment=dict(LEVERS[one.lever].environment))
        return take_turns(commands, rounds, patience)


# ---------------------------------------------------------------------------------------------
# Reporting


def table(shape: Shape, found: dict[Contender, Found], reference: str = "PEFT") -> str:
    """A Markdown table, with ratios of speed and memory to those of a library."""
    rate = {one: shape.tokens / statistics.median(of.seconds) for one, of in found.items()}
    limit = {
        dtype: max((of.told for one, of in found.items() if one.dtype == dtype), default=0.0)
        for dtype in DTYPES
    }
    rows = [
        f"| | tokens/s | to {reference} float32 | to {reference}, same type | peak GB "
        f"| to {reference}, same type | peak of the start GB | compile s | MFU | first loss |",
        "|---" * 10 + "|",
    ]
    for one, of in found.items():
        default, same = Contender(reference, "float32"), Contender(reference, one.dtype)
        utilisation = shape.flops * rate[one] / shape.tokens / limit[one.dtype]
        cells = (
            str(one),
            f"{rate[one]:.0f}",
            f"{rate[one] / rate[default]:.2f}" if default in rate else "",
            f"{rate[one] / rate[same]:.2f}" if same in rate else "",
            f"{of.peak / 1e9:.2f}",
            f"{of.peak / found[same].peak:.2f}" if same in rate else "",
            f"{of.start / 1e9:.2f}",
            f"{of.compile:.1f}",
            f"{utilisation:.0%}",
            f"{of.loss:.6f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def limits(found: dict[Contender, Found]) -> str:
    """One sentence on the rates of plain products."""
    rates = [
        f"{one} {of.told / 1e9:.0f}" for one, of in found.items() if not (one.compiled or one.lever)
    ]
    return f"Matrix products, GFLOP/s: {', '.join(rates)}."


def choose_contenders(with_compiled: bool, lever: str = "") -> list[Contender]:
    """Who can be measured with what is installed."""
    ours = [Contender("lora_jax", dtype, lever=lever) for dtype in DTYPES]
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers", "peft")):
        return ours
    theirs = [Contender("PEFT", dtype) for dtype in DTYPES]
    compiled = [Contender("PEFT", dtype, compiled=True) for dtype in DTYPES]
    return [*theirs, *(compiled if with_compiled else []), *ours]


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="steps of each contender")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU cores for each")
    parser.add_argument("--patience", type=float, default=60, help="longest step with turns, s")
    parser.add_argument("--quick", action="store_true", help="tiny models, to see that it runs")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the shapes, from 0")
    parser.add_argument("--scan", action="store_true", help="scan over our layers")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--without", nargs="*", default=[], help="rows to leave out, by name")
    parser.add_argument("--levers", action="store_true", help="compare our settings, in float32")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        task = json.loads(options.worker)
        task["contender"] = Contender(**task["contender"])
        work(**{**task, "shape": Shape(**task["shape"])})
        return
    shapes = QUICK_SHAPES if options.quick else SHAPES
    chosen = range(len(shapes)) if options.only is None else options.only
    if options.rounds < 1 or options.threads < 1 or not set(chosen) <= set(range(len(shapes))):
        parser.error(f"--rounds and --threads are at least 1, --only below {len(shapes)}")
    from scripts.bench_machine import machine

    print(f"{machine()}; {options.threads} threads each.")
    for number in chosen:
        if options.levers:
            contenders = [Contender("lora_jax", "float32", lever=name) for name in LEVERS]
        else:
            lever = "scan" if options.scan else ""
            contenders = choose_contenders(not options.no_compile, lever)
        left_out = [one for one in contenders if str(one) in options.without]
        found, failed = measure(
            shapes[number],
            [one for one in contenders if one not in left_out],
            options.rounds,
            options.threads,
            options.patience,
        )
        reference = "lora_jax" if options.levers else "PEFT"
        rows = table(shapes[number], found, reference)
        print(f"\n{shapes[number]}:\n\n{rows}\n\n{limits(found)}")
        for one, why in failed.items():
            print(f"\nNot measured: {one} ({why}).")
        if left_out:
            print(f"\nLeft out: {', '.join(map(str, left_out))}.", flush=True)
    if len(choose_contenders(True)) == len(DTYPES):
        print("\ntorch, transformers or peft is not installed: nothing to compare with.")


if __name__ == "__main__":
    sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))
    main()
