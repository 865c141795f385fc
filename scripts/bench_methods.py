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
import functools
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
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import lora_jax as lora
from lora_jax import models

Step = Callable[[], Any]

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NORMS = ("input_layernorm", "post_attention_layernorm", "norm")
TOKENS = tuple(range(16))
AIM = 1.25


class Contender(NamedTuple):
    """A method, and PEFT's configuration of the same.

    Args:
        targets: of ours.
        kind: the class of PEFT's configuration; None where PEFT has no such method.
        fields: of that configuration.
        frozen: what stands in the names of PEFT's parameters that the method freezes.
    """

    targets: Any
    kind: str | None = None
    fields: Mapping[str, Any] = {}
    frozen: str | None = None


def on_linear(method: Any, kind: str | None, frozen: str | None = None, **fields: Any) -> Contender:
    """A method on all seven projections of every block."""
    fields = {"target_modules": list(LINEAR)} | fields
    return Contender(dict.fromkeys(LINEAR, method), kind, fields, frozen)


METHODS: dict[str, Contender] = {
    "LoRA": on_linear(lora.LoRA(rank=8), "LoraConfig", r=8),
    "DoRA": on_linear(lora.DoRA(rank=8), "LoraConfig", r=8, use_dora=True),
    "PiSSA": on_linear(lora.PiSSA(rank=8), "LoraConfig", r=8, init_lora_weights="pissa_niter_4"),
    "LoRA-FA": on_linear(lora.LoRAFA(rank=8), "LoraConfig", frozen="lora_A", r=8),
    "VeRA": on_linear(lora.VeRA(rank=256), "VeraConfig", r=256),
    "IA3": on_linear(lora.IA3(), "IA3Config", feedforward_modules=[]),
    "LoHa": on_linear(lora.LoHa(rank=8), "LoHaConfig", r=8),
    "LoKr": on_linear(lora.LoKr(rank=8), "LoKrConfig", r=8),
    "AdaLoRA": on_linear(lora.AdaLoRA(rank=8), "AdaLoraConfig", init_r=8, total_step=1000),
    "MiSS": on_linear(lora.MiSS(rank=16), "MissConfig", r=16),
    "HiRA": on_linear(lora.HiRA(rank=8), "HiraConfig", r=8),
    "GraLoRA": on_linear(lora.GraLoRA(rank=8), "GraloraConfig", r=8, alpha=64),
    "Full": on_linear(lora.Full(), None),
    "BitFit": Contender(
        {lora.BIASES: lora.BitFit()}, "BeftConfig", {"target_modules": list(LINEAR)}
    ),
    "layer norms": Contender(
        {lora.NORMS: lora.LayerNormTuning()}, "LNTuningConfig", {"target_modules": list(NORMS)}
    ),
    "token rows": Contender(
        {"embed": lora.TokenRows(ids=TOKENS)},
        "TrainableTokensConfig",
        {"target_modules": ["embed_tokens"], "token_indices": list(TOKENS)},
    ),
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of the model and of its batch."""

    dim: int = 512
    layers: int = 4
    vocabulary: int = 1024
    batch: int = 4
    length: int = 128
    scan: bool = False

    @property
    def heads(self) -> int:
        """Heads of 64 entries, one at least."""
        return max(self.dim // 64, 1)

    def __str__(self) -> str:
        how = "scanned" if self.scan else "unrolled"
        return (
            f"{self.layers} layers, {how} in ours; width {self.dim}, gated perceptron "
            f"{4 * self.dim}, {self.heads} heads, vocabulary {self.vocabulary}, batch "
            f"{self.batch} x {self.length}, float32"
        )


# ---------------------------------------------------------------------------------------------
# The contenders


def make_step(name: str, shape: Shape) -> tuple[Step, int | None]:
    """A compiled and warmed-up gradient of a method's factors, and its temporary bytes."""
    params, ids = _base(shape)
    model = models.build(_config(shape)).apply
    lifted = lora.lift(model, params, ids, targets=METHODS[name].targets)
    factors = lifted.init(jax.random.key(2), params)
    frozen = {site.path: site.frozen for site in lifted.sites}
    trained = {
        path: {k: v for k, v in arrays.items() if k not in frozen[path]}
        for path, arrays in factors.items()
    }

    def loss(trained: Any, factors: Any, params: Any, ids: jax.Array) -> jax.Array:
        whole = {path: arrays | trained[path] for path, arrays in factors.items()}
        logits = jax.nn.log_softmax(lifted(params, whole, ids)[:, :-1])
        return -jnp.take_along_axis(logits, ids[:, 1:, None], axis=-1).mean()

    program = jax.jit(jax.grad(loss)).lower(trained, factors, params, ids).compile()
    analysis = program.memory_analysis()
    temporary = None if analysis is None else int(analysis.temp_size_in_bytes)
    step = lambda: jax.block_until_ready(program(trained, factors, params, ids))
    step()
    return step, temporary


@functools.cache
def _base(shape: Shape) -> tuple[Any, jax.Array]:
    size = (shape.batch, shape.length)
    ids = jax.random.randint(jax.random.key(1), size, 0, shape.vocabulary)
    return models.init(_config(shape), jax.random.key(0)), ids


def _config(shape: Shape) -> models.DecoderConfig:
    return models.DecoderConfig(
        vocab_size=shape.vocabulary,
        dim=shape.dim,
        ff_dim=4 * shape.dim,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.heads,
        head_dim=shape.dim // shape.heads,
        max_length=shape.length,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        scan=shape.scan,
    )


def make_peft_model(name: str, shape: Shape) -> Any:
    """PEFT's method on a Llama of the same sizes."""
    import peft
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.dim,
        intermediate_size=4 * shape.dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.length,
        attention_bias=True,
        mlp_bias=True,
    )
    contender = METHODS[name]
    settings = getattr(peft, str(contender.kind))(**contender.fields)
    model = peft.get_peft_model(transformers.LlamaForCausalLM(config), settings)
    for path, parameter in model.named_parameters():
        if contender.frozen is not None and contender.frozen in path:
            parameter.requires_grad_(False)
    return model.train()


def make_peft_step(name: str, shape: Shape) -> Step:
    """A warmed-up forward and backward pass of PEFT's method."""
    import torch

    model = make_peft_model(name, shape)
    ids = torch.randint(0, shape.vocabulary, (shape.batch, shape.length))

    def step() -> None:
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()

    step()
    return step


def has_peft() -> bool:
    """Whether PEFT's side can run."""
    return all(importlib.util.find_spec(name) for name in ("torch", "peft", "transformers"))


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
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
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
