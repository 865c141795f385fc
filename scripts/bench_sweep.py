# mypy: disable-error-code="import-not-found, import-untyped"
"""What a joint sweep saves: K adapters trained together, one after another, and by PEFT.

    python scripts/bench_sweep.py --steps 300 --devices 2

prints docs/measured/sweep.md. A small Llama with random weights, its layers unrolled, the same in
all contenders, learns a language of random transitions between tokens; the members differ in rank,
targets, learning rate and seed, and each has batches of its own. All train with AdamW on the same
batches for as many steps.

The wall time of a member alone is that of its own compilation and steps: another rank, target or
learning rate is another program. PEFT runs eagerly, one adapter after another, on as many threads.
What is measured takes turns: a member alone, the same member in PEFT, and, whenever the number of
members reaches 1, 2, 4, 8 or 16, all members so far together. The persistent cache of compiled
programs is off. Quality is the loss of the last tenth of the steps, as a mean over the members.

Aims: at least twice as fast as our own runs one after another, compilation included, and four times
as fast as PEFT.

With --devices=2 the members trained together are split between two devices of JAX, each a core, in
a process of its own (`jax_num_cpu_devices`, and XLA on one thread each); its start is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

import lora_jax as lora
from lora_jax import hub, training
from lora_jax.data.loader import TrainingBatches, training_batches
from lora_jax.training import language_model

TARGETS = (("q_proj", "v_proj"), ("q_proj", "k_proj", "v_proj", "o_proj"))
RANKS, RATES = (4, 8), (1e-3, 3e-3)
COUNTS = (1, 2, 4, 8, 16)


class Shape(NamedTuple):
    """The model and its batch."""

    dim: int = 64
    layers: int = 5
    heads: int = 8
    vocabulary: int = 512
    batch: int = 8
    length: int = 64

    def __str__(self) -> str:
        return (
            f"Llama of {self.layers} layers of width {self.dim}, {self.vocabulary} tokens, batch "
            f"{self.batch} x {self.length}, float32"
        )


class Timed(NamedTuple):
    """Seconds of a run with all that belongs to it, of its steps alone, and its last losses."""

    whole: float
    steps: float
    loss: float


def make_members(count: int, steps: int) -> list[training.Member]:
    """The first members of a grid of ranks, targets, learning rates and seeds."""
    grid = itertools.product(range(count), RATES, RANKS, TARGETS)
    return [
        training.Member(
            name=f"{i}",
            targets=targets,
            method=lora.LoRA(rank=rank, alpha=2 * rank),
            optimizer={"learning_rate": rate, "warmup": max(1, steps // 20), "weight_decay": 0.01},
            seed=i,
        )
        for i, (_, rate, rank, targets) in enumerate(itertools.islice(grid, count))
    ]


def make_examples(shape: Shape) -> dict[str, np.ndarray]:
    """Texts of a language in which a token is followed by one of four."""
    rng = np.random.default_rng(0)
    follows = rng.integers(3, shape.vocabulary, (shape.vocabulary, 4))
    ids = np.empty((512, shape.length), np.int32)
    ids[:, 0] = rng.integers(3, shape.vocabulary, len(ids))
    for place in range(1, shape.length):
        ids[:, place] = follows[ids[:, place - 1], rng.integers(0, 4, len(ids))]
    return {"ids": ids, "trained": np.ones_like(ids), "segments": np.ones_like(ids)}


def batches_of(shape: Shape, member: training.Member) -> TrainingBatches:
    """The batches of a member, the same for all contenders."""
    return training_batches(make_examples(shape), shape.batch, seed=member.seed)


# ---------------------------------------------------------------------------------------------
# The contenders


def train_together(
    base: hub.Pretrained,
    shape: Shape,
    members: list[training.Member],
    steps: int,
    devices: int = 1,
    chunk: int | None = None,
) -> Timed:
    """All members in one program, on one device or in equal parts on several."""
    start = time.perf_counter()
    sweep = training.make_sweep(
        base.apply,
        base.params,
        jax.ShapeDtypeStruct((shape.batch, shape.length), np.int32),
        members=members,
        steps=steps,
        init=lambda _, lifted, key: language_model.init_variables(base, lifted, key),
        loss=functools.partial(_loss, base),
        chunk=chunk,
        mesh=training.make_mesh({"data": devices}) if devices > 1 else None,
    )
    result = training.train_sweep(
        sweep, functools.partial(batches_of, shape), console=Console(quiet=True)
    )
    whole = time.perf_counter() - start
    last = np.nanmean(result.losses[:, -max(1, steps // 10) :])
    return Timed(whole, _steps(result.rows), float(last))


def train_apart(directory: str, options: argparse.Namespace, count: int) -> Timed:
    """`train_together` in a process of its own, in which each of some cores is a device of JAX."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    arguments = {
        "model": directory,
        "most": count,
        **{name: getattr(options, name) for name in ("steps", "batch", "length", "devices")},
        **({} if options.chunk is None else {"chunk": options.chunk}),
    }
    done = subprocess.run(
        [sys.executable, __file__, *(f"--{name}={value}" for name, value in arguments.items())],
        env={**os.environ, "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        check=True,
    )
    return Timed(*json.loads(done.stdout))


def train_alone(base: hub.Pretrained, shape: Shape, member: training.Member, steps: int) -> Timed:
    """One member as a run of its own."""
    start = time.perf_counter()
    ids = jax.ShapeDtypeStruct((shape.batch, shape.length), np.int32)
    lifted = lora.lift(base.apply, base.params, ids, targets=member.targets, method=member.method)
    variables = language_model.init_variables(base, lifted, jax.random.key(member.seed))
    labels = training.label(variables, [("adapter/.*", "adapter"), ("params/.*", None)])
    optimizer = training.make_optimizer(member.optimizer, labels, steps)
    state, frozen = training.init_state(variables, labels, optimizer, jax.random.key(member.seed))
    step = training.make_step(_loss(base, lifted), optimizer)
    batches = batches_of(shape, member)
    quiet = Console(quiet=True)
    rows = training.train(step, state, frozen, batches, steps=steps, console=quiet).rows
    whole = time.perf_counter() - start
    last = [row["loss"] for row in rows[-max(1, steps // 10) :]]
    return Timed(whole, _steps(rows), statistics.mean(last))


def train_in_peft(directory: str, shape: Shape, member: training.Member, steps: int) -> Timed:
    """One member in PEFT, on the model of transformers."""
    import peft
    import torch
    import transformers

    torch.manual_seed(member.seed)
    start = time.perf_counter()
    base = transformers.LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    settings = peft.LoraConfig(
        r=member.method.rank,  # type: ignore[attr-defined]
        lora_alpha=member.method.alpha,  # type: ignore[attr-defined]
        target_modules=list(member.targets),
    )
    model = peft.get_peft_model(base, settings).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    config = member.optimizer
    optimizer = torch.optim.AdamW(
        trained, lr=config["learning_rate"], weight_decay=config["weight_decay"]
    )
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, config["warmup"], steps)
    batches, losses = batches_of(shape, member), []
    first = time.perf_counter()
    for _ in range(steps):
        ids = torch.from_numpy(next(batches)["ids"]).long()
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    end = time.perf_counter()
    return Timed(end - start, end - first, statistics.mean(losses[-max(1, steps // 10) :]))


def _loss(base: hub.Pretrained, lifted: lora.Lifted | None) -> Any:
    outputs = language_model.make_outputs(base, lifted, frozen_head=True)
    return functools.partial(language_model.loss, outputs)


def _steps(rows: list[dict[str, Any]]) -> float:
    """Seconds of all steps but for the compilation, which the first one waits for."""
    return statistics.median(row["seconds"] for row in rows[1:]) * len(rows)


@contextlib.contextmanager
def saved_model(shape: Shape) -> Iterator[str]:
    """A directory with a Llama of random weights."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.dim,
        "intermediate_size": 3 * shape.dim,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads // 2,
        "max_position_embeddings": shape.length,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    import transformers

    transformers.set_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
        model.save_pretrained(directory)
        yield directory


# ---------------------------------------------------------------------------------------------
# Reporting

HEADER = """\
| K | together s | one after another s | ratio | PEFT s | ratio | steps alone: together s \
| one after another s | ratio | PEFT s | ratio | last loss: together | alone | PEFT |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def row(together: Timed, alone: list[Timed], theirs: list[Timed]) -> str:
    """One line of the table."""
    cells = [f"{len(alone)}"]
    for field in ("whole", "steps"):
        ours = getattr(together, field)
        cells.append(f"{ours:.1f}")
        for others in (alone, theirs):
            total = sum(getattr(one, field) for one in others)
            cells += [f"{total:.1f}", f"{total / ours:.2f}"] if others else ["", ""]
    cells.append(f"{together.loss:.4f}")
    for others in (alone, theirs):
        cells.append(f"{statistics.mean(one.loss for one in others):.4f}" if others else "")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300, help="of every run")
    parser.add_argument("--most", type=int, default=COUNTS[-1], help="members at most")
    parser.add_argument("--batch", type=int, default=Shape().batch, help="rows of a batch")
    parser.add_argument("--length", type=int, default=Shape().length, help="tokens of a row")
    parser.add_argument("--chunk", type=int, help="members of a device at a time; 0: all of them")
    parser.add_argument("--devices", type=int, default=1, help="cores with members of their own")
    parser.add_argument("--model", help="train --most members on it together, and print as JSON")
    parser.add_argument("--no-peft", action="store_true", help="leave PEFT out")
    options = parser.parse_args()
    if options.steps < 2 or options.most < 1:
        parser.error("--steps is at least 2, --most at least 1")
    from scripts.bench_machine import machine

    jax.config.update("jax_enable_compilation_cache", False)  # or compiling costs nothing
    shape = Shape(batch=options.batch, length=options.length)
    if options.model:
        jax.config.update("jax_num_cpu_devices", options.devices)
        base = hub.load_model(options.model, dtype="float32", scan=False)
        members = make_members(options.most, options.steps)
        found = train_together(base, shape, members, options.steps, options.devices, options.chunk)
        print(json.dumps(found))
        return
    with_peft = not options.no_peft and importlib.util.find_spec("peft") is not None
    print(f"{machine()}; {shape}, {options.steps} steps.\n\n{HEADER}", flush=True)
    if with_peft:
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
    with saved_model(shape) as directory:
        base = hub.load_model(directory, dtype="float32", scan=False)
        alone: list[Timed] = []
        theirs: list[Timed] = []
        for member in make_members(options.most, options.steps):
            alone.append(train_alone(base, shape, member, options.steps))
            if with_peft:
                theirs.append(train_in_peft(directory, shape, member, options.steps))
            if len(alone) in COUNTS:
                if options.devices > 1 and len(alone) % options.devices == 0:
                    together = train_apart(directory, options, len(alone))
                else:
                    members = make_members(len(alone), options.steps)
                    together = train_together(
                        base, shape, members, options.steps, chunk=options.chunk
                    )
                print(row(together, alone, theirs), flush=True)


if __name__ == "__main__":
    sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))
    main()
