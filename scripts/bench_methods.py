# mypy: disable-error-code="import-not-found, import-untyped"
"""What each method costs: a training step of every method beside plain LoRA, and beside PEFT's.

    python scripts/bench_methods.py --rounds 10

On the transformer of scripts/bench_lift.py, scanned, with all six projections of a block adapted,
it prints the time of a step's gradient (forward and backward) and the temporary memory that the
compiled program asks for, with ratios to LoRA. The contenders take turns within every round, so a
noisy machine disturbs them alike; medians are shown. Where torch and peft are installed, PEFT's
methods on the same model in torch take their turns too (eager, as PEFT is used); their ratio is to
PEFT's own LoRA. Aim: DoRA at most 1.25 times LoRA.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax

import lora_jax as lora

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))

from scripts import bench_lift

Step = Callable[[], Any]

METHODS: dict[str, Any] = {
    "LoRA": lora.LoRA(rank=8),
    "DoRA": lora.DoRA(rank=8),
    "VeRA": lora.VeRA(rank=256),
    "IA3": lora.IA3(),
    "LoHa": lora.LoHa(rank=8),
    "LoKr": lora.LoKr(rank=8),
    "AdaLoRA": lora.AdaLoRA(rank=8),
    "LoRA-FA": lora.LoRAFA(rank=8),
    "MiSS": lora.MiSS(rank=16),
    "HiRA": lora.HiRA(rank=8),
    "GraLoRA": lora.GraLoRA(rank=8),
    "Full": lora.Full(),
}

# PEFT's configuration of the same method: class and fields.
PEFT: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("LoraConfig", {"r": 8}),
    "DoRA": ("LoraConfig", {"r": 8, "use_dora": True}),
    "VeRA": ("VeraConfig", {"r": 256}),
    "IA3": ("IA3Config", {"feedforward_modules": []}),
    "LoHa": ("LoHaConfig", {"r": 8}),
    "LoKr": ("LoKrConfig", {"r": 8}),
    "AdaLoRA": ("AdaLoraConfig", {"init_r": 8, "total_step": 1000}),
    "MiSS": ("MissConfig", {"r": 16}),
    "HiRA": ("HiraConfig", {"r": 8}),
    "GraLoRA": ("GraloraConfig", {"r": 8, "alpha": 16}),
}


@dataclasses.dataclass
class Cost:
    """One contender: seconds of its steps, and bytes of temporary memory where known."""

    memory: int | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)


def make_step(
    method: Any, params: Any, ids: jax.Array, shape: bench_lift.Shape
) -> tuple[Step, int | None]:
    """A compiled and warmed-up gradient of a method's factors, and its temporary memory."""
    model = functools.partial(bench_lift.apply, shape=shape)
    targets = tuple(f"layers/{name}" for name in bench_lift.PROJECTIONS)
    lifted = lora.lift(model, params, ids, method=method, targets=targets, strict=True)
    factors = lifted.init(jax.random.key(2), params)

    def loss(factors: Any, params: Any, ids: jax.Array) -> jax.Array:
        return bench_lift.next_token_loss(lifted(params, factors, ids), ids)

    program = jax.jit(jax.grad(loss)).lower(factors, params, ids).compile()
    analysis = program.memory_analysis()
    memory = None if analysis is None else int(analysis.temp_size_in_bytes)
    step = lambda: jax.block_until_ready(program(factors, params, ids))
    step()
    return step, memory


def make_peft_step(name: str, shape: bench_lift.Shape) -> Step:
    """A warmed-up forward and backward pass of PEFT's method on a Llama of the same sizes."""
    import peft
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.dim,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
    )
    kind, fields = PEFT[name]
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    model = peft.get_peft_model(
        transformers.LlamaForCausalLM(config),
        getattr(peft, kind)(target_modules=targets, **fields),
    )
    model.train()
    ids = torch.randint(0, shape.vocabulary, (shape.batch, shape.length))

    def step() -> None:
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()

    step()
    return step


def measure(names: list[str], shape: bench_lift.Shape, rounds: int) -> dict[str, Cost]:
    """Lets all contenders take turns; PEFT's are named "PEFT NAME"."""
    params = bench_lift.init(jax.random.key(0), shape)
    ids = jax.random.randint(jax.random.key(1), (shape.batch, shape.length), 0, shape.vocabulary)
    steps, costs = {}, {}
    for name in names:
        steps[name], memory = make_step(METHODS[name], params, ids, shape)
        costs[name] = Cost(memory)
    if all(importlib.util.find_spec(module) for module in ("torch", "peft", "transformers")):
        for name in filter(PEFT.__contains__, names):
            steps[f"PEFT {name}"] = make_peft_step(name, shape)
            costs[f"PEFT {name}"] = Cost()
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            costs[name].seconds.append(time.perf_counter() - start)
    return costs


def table(costs: dict[str, Cost]) -> str:
    """A Markdown table, with ratios to LoRA, and of PEFT's methods to PEFT's LoRA."""
    median = {name: statistics.median(cost.seconds) for name, cost in costs.items()}
    rows = ["| | step ms | to LoRA | memory MiB | PEFT ms | to PEFT's LoRA |", "|---" * 6 + "|"]
    for name, cost in costs.items():
        if name.startswith("PEFT "):
            continue
        memory = "" if cost.memory is None else f"{cost.memory / 2**20:.0f}"
        theirs = median.get(f"PEFT {name}")
        beside = "| | |" if theirs is None else _beside(theirs, median["PEFT LoRA"])
        ratio = median[name] / median["LoRA"]
        rows.append(f"| {name} | {1e3 * median[name]:.1f} | {ratio:.2f} | {memory} {beside}")
    return "\n".join(rows)


def _beside(seconds: float, reference: float) -> str:
    return f"| {1e3 * seconds:.1f} | {seconds / reference:.2f} |"


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10, help="steps of each contender")
    options = parser.parse_args()
    if options.rounds < 1 or options.layers < 1:
        parser.error("--rounds and --layers must be at least 1")
    names = list(dict.fromkeys(["LoRA", *options.methods]))
    shape = bench_lift.Shape(layers=options.layers)
    print(f"{bench_lift.machine()}\n\n{shape}\n")
    print(table(measure(names, shape, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
