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

Two peaks of resident memory are shown: that of the steps, from the second on, and that of the start
(loading, compiling and the first step). In between all of them give freed memory back to the
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
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scripts.bench_processes import Command, Found, answer, seconds, take_turns

Step = Callable[[], float]  # takes a step and returns its loss

RANK, ALPHA, LEARNING_RATE = 8, 16, 1e-3
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model and its batch."""

    family: str  # "gpt2" or "roberta"
    batch: int
    length: int
    layers: int = 12
    dim: int = 768
    heads: int = 12
    vocabulary: int = 50257

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.length

    @property
    def flops(self) -> float:
        """Of a step, forward and backward to the inputs: frozen weights have no gradient."""
        weights = self.layers * 12 * self.dim**2
        weights += self.dim * self.vocabulary if self.family == "gpt2" else 0
        attention = self.layers * 2 * self.length * self.dim
        return 2 * 2 * self.tokens * (weights + attention)

    def __str__(self) -> str:
        name = {"gpt2": "GPT-2", "roberta": "RoBERTa"}[self.family]
        return (
            f"{name}, {self.layers} layers of width {self.dim}, batch {self.batch} x {self.length}"
        )


SHAPES = (
    Shape("gpt2", 4, 128),
    Shape("gpt2", 8, 512),
    Shape("roberta", 16, 128, vocabulary=50265),
)
_SMALL = {"layers": 2, "dim": 32, "heads": 2, "vocabulary": 97}
QUICK_SHAPES = (Shape("gpt2", 2, 16, **_SMALL), Shape("roberta", 2, 16, **_SMALL))


@dataclasses.dataclass(frozen=True)
class Lever:
    """Settings of our step, and of the environment of its process."""

    unstacked: bool = True  # frozen layers as arrays of their own
    scan: bool = False
    chunk: int = 512  # tokens whose logits are held at once
    frozen_head: bool = True
    attention: str = "plain"
    environment: tuple[tuple[str, str], ...] = ()


_FUSIONS = "--xla_cpu_experimental_ynn_fusion_type="
LEVERS = {
    "": Lever(),
    "layers sliced from stacks": Lever(unstacked=False),
    "scan": Lever(unstacked=False, scan=True),
    "chunks of 128": Lever(chunk=128),
    "chunks of 256": Lever(chunk=256),
    "head applied again": Lever(frozen_head=False),
    "attention xla": Lever(attention="xla"),
    "YNN fuses elements": Lever(environment=(("XLA_FLAGS", f"{_FUSIONS}+eltwise"),)),
    "YNN no dots": Lever(environment=(("XLA_FLAGS", f"{_FUSIONS}-dot,-individual_dot"),)),
    "YNN off": Lever(environment=(("XLA_FLAGS", _FUSIONS),)),
    "in order": Lever(
        environment=(("XLA_FLAGS", "--xla_cpu_enable_concurrency_optimized_scheduler=false"),)
    ),
    "huge pages": Lever(environment=(("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),)),
}


@dataclasses.dataclass(frozen=True)
class Contender:
    """Who takes steps, in what type, whether torch compiles them, and our settings."""

    library: str  # "lora_jax" or "PEFT"
    dtype: str
    compiled: bool = False
    lever: str = ""  # a name in LEVERS

    def __str__(self) -> str:
        name = f"{self.library} {self.dtype}{', torch.compile' if self.compiled else ''}"
        return f"{name}, {self.lever}" if self.lever else name


# ---------------------------------------------------------------------------------------------
# The same model and batch for all


def save_model(shape: Shape, directory: str) -> None:
    """Writes random weights as the files of transformers, without dropout."""
    import jax

    from lora_jax import hub, models

    if shape.family == "gpt2":
        config: Any = models.GPT2Config(
            vocab_size=shape.vocabulary,
            dim=shape.dim,
            layers=shape.layers,
            heads=shape.heads,
            ff_dim=4 * shape.dim,
            bos_id=shape.vocabulary - 1,
            eos_ids=(shape.vocabulary - 1,),
        )
    else:
        config = models.BertConfig(
            model_type="roberta",
            vocab_size=shape.vocabulary,
            dim=shape.dim,
            layers=shape.layers,
            heads=shape.heads,
            ff_dim=4 * shape.dim,
            positions=514,
            types=1,
            positions_skip_padding=True,
            pad_id=1,
        )
    hub.save_model(directory, config, models.init(config, jax.random.key(0)), overwrite=True)


def make_batch(shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random tokens, classes, and the head that tells classes (RoBERTa)."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, shape.vocabulary - 5, (shape.batch, shape.length)).astype(np.int32)
    head = rng.normal(scale=0.02, size=(shape.dim, 2)).astype(np.float32)
    return ids, np.arange(shape.batch, dtype=np.int32) % 2, head


# ---------------------------------------------------------------------------------------------
# The contenders


def our_step(shape: Shape, dtype: str, directory: str, lever: Lever) -> Step:
    """A step of lora_jax, compiled."""
    import functools

    import jax

    import lora_jax as lora
    from lora_jax import hub, training
    from lora_jax.training import classifier, language_model

    options: Any = {"attention": lever.attention} if shape.family == "gpt2" else {}
    base = hub.load_model(directory, dtype=dtype, scan=lever.scan, **options)
    ids, label, head = make_batch(shape)
    method = lora.LoRA(rank=RANK, alpha=ALPHA)
    lift = functools.partial(
        lora.lift, base.apply, base.params, method=method, targets=("q_proj", "v_proj"), strict=True
    )
    ones = np.ones_like(ids)
    if shape.family == "gpt2":
        lifted = lift(ids)
        variables = language_model.init_variables(base, lifted, jax.random.key(0))
        outputs = language_model.make_outputs(
            base, lifted, lever.chunk, frozen_head=lever.frozen_head
        )
        loss: Any = functools.partial(language_model.loss, outputs)
        batch = {"ids": ids, "trained": ones, "segments": ones}
    else:
        lifted = lift(ids, ones, 0 * ids)
        variables = classifier.init_variables(base, lifted, 2, jax.random.key(0))
        variables["head"]["kernel"] = head
        loss = functools.partial(classifier.loss, classifier.make_outputs(base, lifted, "mean"))
        batch = {"ids": ids, "mask": ones, "type_ids": 0 * ids, "label": label}
    labels = training.label(variables, [("(adapter|head)/.*", "trained"), ("params/.*", None)])
    optimizer = training.make_optimizer({"learning_rate": LEARNING_RATE}, labels, 1000)
    state, frozen = training.init_state(variables, labels, optimizer, jax.random.key(1))
    if lever.unstacked:
        frozen = training.unstack(frozen)
    del variables, base, lift  # and with them the stacks
    step, batch = training.make_step(loss, optimizer), jax.device_put(batch)

    def run() -> float:
        nonlocal state
        state, metrics = step(state, frozen, batch)
        return float(metrics["loss"])

    return run


def their_step(shape: Shape, contender: Contender, directory: str) -> Step:
    """A step of PEFT on the model of transformers."""
    import peft
    import torch
    import transformers

    dtype = getattr(torch, contender.dtype)
    settings = peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=["c_attn"] if shape.family == "gpt2" else ["query", "value"],
        fan_in_fan_out=shape.family == "gpt2",
    )
    kind = {"gpt2": "AutoModelForCausalLM", "roberta": "AutoModel"}[shape.family]
    without = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    if shape.family == "roberta":
        without = dict.fromkeys(("attention_probs_dropout_prob", "hidden_dropout_prob"), 0.0)
        without["add_pooling_layer"] = False
    model = getattr(transformers, kind).from_pretrained(directory, dtype=dtype, **without)
    model = peft.get_peft_model(model, settings).train()
    ids, label, kernel = make_batch(shape)
    tokens, classes = torch.tensor(ids).long(), torch.tensor(label).long()
    head = torch.nn.Linear(shape.dim, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(kernel.T))
        head.bias.zero_()
    trained = [p for p in model.parameters() if p.requires_grad]
    trained += list(head.parameters()) if shape.family == "roberta" else []
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.01)

    def loss_of() -> Any:
        if shape.family == "gpt2":
            return model(input_ids=tokens, labels=tokens).loss
        hidden = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        return torch.nn.functional.cross_entropy(head(hidden.float().mean(dim=1)), classes)

    if contender.compiled:
        loss_of = torch.compile(loss_of)

    def run() -> float:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return float(loss.detach())

    return run


def product_limit(contender: Contender, size: int) -> float:
    """FLOP/s of a square matrix product with operands in the contender's type."""
    if contender.library == "PEFT":
        import torch

        x = torch.randn(size, size).to(getattr(torch, contender.dtype))
        multiply: Callable[[], Any] = lambda: x @ x
    else:
        import jax
        import jax.numpy as jnp

        y = jax.random.normal(jax.random.key(0), (size, size)).astype(contender.dtype)
        program = jax.jit(lambda y: jnp.matmul(y, y, preferred_element_type=jnp.float32))
        multiply = lambda: program(y).block_until_ready()
    multiply()
    return 2 * size**3 / min(seconds(multiply) for _ in range(5))


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
            arguments = [sys.executable, __file__, "--worker", json.dumps(task)]
            commands[one] = Command(arguments, dict(LEVERS[one.lever].environment))
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
