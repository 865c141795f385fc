# mypy: disable-error-code="import-not-found, import-untyped"
"""What a quantised base costs: training steps, texts and memory in float32, bfloat16, int8 and nf4.

    python scripts/bench_quantized.py --rounds 5

LoRA of rank 8 on all linears of a Llama with random weights, the same in all contenders. A step is
forward, backward and AdamW; texts are written greedily with the adapter unmerged. Weights in int8
and nf4 are made dense where they are used, in bfloat16. Beside ours stands PEFT, with bitsandbytes
for what is quantised: without PEFT's `prepare_model_for_kbit_training`, which would turn the head
and the embeddings into float32. Each contender has a process of its own and waits while another
works; medians are shown. The memory of the base is what its arrays hold, the peak that of the
process while it works, without the start.

bitsandbytes may be in an environment of its own, with torch, transformers, peft and accelerate:

    python -m venv ENV
    ENV/bin/pip install bitsandbytes==0.50.2 torch transformers peft accelerate
    LORA_JAX_PEFT_PYTHON=ENV/bin/python python scripts/bench_quantized.py
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

from scripts import bench_llama
from scripts.bench_llama import Llama
from scripts.bench_processes import Found, Work, answer, take_turns, worker

OURS, PEFT = "lora_jax", "PEFT"
STEP, TEXTS = "step", "texts"
BASES = {
    "float32": ("float32", None),
    "bfloat16": ("bfloat16", None),
    "int8": ("bfloat16", "int8"),
    "nf4": ("bfloat16", "nf4"),
}
"""Name of a base -> the type of what is dense, and how linear weights are kept."""


class Contender(NamedTuple):
    """A library and what its base is kept in."""

    library: str
    base: str

    def __str__(self) -> str:
        beside = " with bitsandbytes" if self.library == PEFT and BASES[self.base][1] else ""
        return f"{self.library}{beside}, {self.base}"


# ---------------------------------------------------------------------------------------------
# Measuring


def make(contender: Contender, llama: Llama, directory: str, what: str) -> tuple[Work, float]:
    """A step or texts of a contender, and the bytes of its base."""
    dtype, quantize = BASES[contender.base]
    if contender.library == PEFT:
        work = {STEP: bench_llama.peft_step, TEXTS: bench_llama.peft_texts}[what]
        return work(llama, directory, dtype, "all-linear", quantize)
    from lora_jax import ALL_LINEAR

    ours = {STEP: bench_llama.our_step, TEXTS: bench_llama.our_texts}[what]
    return ours(llama, directory, dtype, ALL_LINEAR, quantize)


def work(
    contender: list[str], llama: dict[str, int], directory: str, what: str, cores: int
) -> None:
    """Works whenever it is asked to; what the process of a contender does."""

    def made() -> tuple[Work, float]:
        if contender[0] == PEFT:
            import torch

            torch.set_num_threads(cores)
        else:
            import jax

            jax.config.update("jax_enable_compilation_cache", False)  # or compiling costs nothing
        return make(Contender(*contender), Llama(**llama), directory, what)

    answer(made, cores)


def measure(
    contenders: list[Contender],
    llama: Llama,
    what: str,
    rounds: int,
    cores: int,
    peft_python: str = sys.executable,
    patience: float = float("inf"),
) -> tuple[dict[Contender, Found], dict[Contender, str]]:
    """Lets contenders take turns; also tells why some could not."""
    with tempfile.TemporaryDirectory() as directory:
        llama.save(directory)
        commands = {}
        for one in contenders:
            task: dict[str, Any] = {"contender": one, "llama": dataclasses.asdict(llama)}
            task |= {"directory": directory, "what": what, "cores": cores}
            python = peft_python if one.library == PEFT else sys.executable
            commands[one] = worker(__file__, task, python)
        return take_turns(commands, rounds, patience)


# ---------------------------------------------------------------------------------------------
# Reporting

HEADER = """\
| | tokens/s | to its float32 | to its bfloat16 | to PEFT's of this base | base MB | peak GB \
| to its float32 | compile s | first loss |
|---|---|---|---|---|---|---|---|---|---|"""


def table(found: Mapping[Contender, Found], tokens: int, what: str) -> str:
    """A Markdown table of speed and memory, with ratios to dense bases and to PEFT."""
    rate = {one: tokens / statistics.median(of.seconds) for one, of in found.items()}
    rows = [HEADER]
    for one, of in found.items():
        dense = [one._replace(base=base) for base in ("float32", "bfloat16")]
        theirs = Contender(PEFT, one.base)
        cells = [str(one), f"{rate[one]:.0f}" if rate[one] >= 10 else f"{rate[one]:.1f}"]
        cells += [_ratio(rate, one, other) for other in (*dense, theirs)]
        cells += [f"{of.told / 1e6:.0f}", f"{of.peak / 1e9:.2f}"]
        cells += [f"{of.peak / found[dense[0]].peak:.2f}" if dense[0] in found else ""]
        cells += [f"{of.compile:.1f}", f"{of.loss:.4f}" if what == STEP else ""]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _ratio(rate: Mapping[Contender, float], one: Contender, other: Contender) -> str:
    return f"{rate[one] / rate[other]:.2f}" if other in rate else ""


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU cores for each")
    parser.add_argument("--patience", type=float, default=60, help="longest turn, s")
    peft = os.environ.get("LORA_JAX_PEFT_PYTHON", sys.executable)
    parser.add_argument("--peft-python", default=peft, help="PEFT's Python")
    parser.add_argument("--no-peft", action="store_true", help="leave PEFT out")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    for field in dataclasses.fields(Llama):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    options = parser.parse_args()
    if options.worker:
        work(**json.loads(options.worker))
        return
    sizes = {field.name: getattr(options, field.name) for field in dataclasses.fields(Llama)}
    if min(options.rounds, options.threads, *sizes.values()) < 1 or options.dim % 64:
        parser.error("every number must be at least 1, and --dim a multiple of 64")
    from scripts.bench_machine import machine

    llama = Llama(**sizes)
    libraries = [OURS] if options.no_peft else [OURS, PEFT]
    contenders = [Contender(library, base) for library in libraries for base in BASES]
    print(f"{machine()}; {options.threads} threads each.\n{llama}; rank {bench_llama.RANK}.")
    for what, title, tokens in (
        (STEP, f"Training steps, batch {llama.batch} x {llama.length}", llama.batch * llama.length),
        (
            TEXTS,
            f"Texts: {llama.rows} at a time, {llama.new} tokens after prompts of {llama.prompt}",
            llama.rows * llama.new,
        ),
    ):
        found, failed = measure(
            contenders,
            llama,
            what,
            options.rounds,
            options.threads,
            options.peft_python,
            options.patience,
        )
        print(f"\n{title}:\n\n{table(found, tokens, what)}", flush=True)
        for one, why in failed.items():
            print(f"\nNot measured: {one} ({why}).", flush=True)


if __name__ == "__main__":
    main()
