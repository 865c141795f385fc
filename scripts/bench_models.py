# mypy: disable-error-code="import-not-found, import-untyped"
"""What models cost: compiling a deep decoder, and reading and writing text beside transformers.

    python scripts/bench_models.py --rounds 5 --threads 2

First the time to compile the gradient of a scanned decoder of 12 and of 48 layers: expected ratio
at most 1.3, for the layers are compiled once. Then a GPT-2 of the size `small` with random weights,
the same in both: prefill (a prompt is read into the cache) and decode (greedy, one token after
another), in float32 and bfloat16, in tokens/s. Contenders take turns within every round, so that a
noisy machine disturbs them alike; medians are shown, and the ratio to transformers. The second part
needs torch and transformers and says so where they are missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import hub, models
from lora_jax.evaluation import generate

Seconds = dict[str, list[float]]

# ---------------------------------------------------------------------------------------------
# Compiling


def compile_gradient(layers: int) -> float:
    """Seconds to compile the gradient of a decoder's loss with respect to all its params."""
    config = models.DecoderConfig(
        vocab_size=1024, dim=256, layers=layers, heads=4, kv_heads=2, head_dim=64, ff_dim=1024
    )
    model = models.build(config)
    ids = jax.ShapeDtypeStruct((4, 128), jnp.int32)

    def loss(params: Any, ids: Any) -> Any:
        logits = jax.nn.log_softmax(model.apply(params, ids)[:, :-1])
        return -jnp.take_along_axis(logits, ids[:, 1:, None], axis=-1).mean()

    jax.clear_caches()
    lowered = jax.jit(jax.grad(loss)).lower(model.shapes, ids)
    start = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - start


def measure_compiling(depths: list[int], rounds: int) -> dict[int, list[float]]:
    """Compiles each depth once a round."""
    times: dict[int, list[float]] = {layers: [] for layers in depths}
    for _ in range(rounds):
        for layers in depths:
            times[layers].append(compile_gradient(layers))
    return times


def compile_table(times: Mapping[int, list[float]]) -> str:
    """A Markdown table, with ratios to the first depth."""
    first = statistics.median(next(iter(times.values())))
    rows = ["| layers, scanned | compile s | ratio |", "|---|---|---|"]
    for layers, seconds in times.items():
        median = statistics.median(seconds)
        rows.append(f"| {layers} | {median:.2f} | {median / first:.2f} |")
    return "\n".join(rows)


# ---------------------------------------------------------------------------------------------
# Reading and writing text


@dataclasses.dataclass(frozen=True)
class Shape:
    """The batch: prompts of one length, and how many tokens follow each."""

    batch: int = 4
    prompt: int = 256
    new: int = 64

    def __str__(self) -> str:
        return f"batch {self.batch}, prompts of {self.prompt} tokens, {self.new} new tokens each"


class Contender:
    """A model that reads prompts, and one that continues them too."""

    def __init__(self, read: Callable[[], Any], write: Callable[[], np.ndarray]) -> None:
        self.read = read
        self.write = write


def make_contenders(original: Any, shape: Shape, dtype: str, scan: bool) -> dict[str, Contender]:
    """The same weights in both: those of a model of transformers, read from its files."""
    ids = np.random.default_rng(0).integers(0, 50257, (shape.batch, shape.prompt)).astype(np.int32)
    with tempfile.TemporaryDirectory() as directory:
        original.save_pretrained(directory)
        ours = hub.load_model(directory, dtype=dtype, scan=scan)
    return {
        "transformers": theirs_on(original, ids, shape, dtype),
        "lora_jax": ours_on(ours, ids, shape),
    }


def ours_on(model: hub.Pretrained, ids: np.ndarray, shape: Shape) -> Contender:
    """Our model."""
    # No text may end early: the work would differ.
    config = dataclasses.replace(model.config, eos_ids=())
    params = model.params if model.config.scan else models.unstack(model.params)

    @jax.jit
    def read(params: Any, ids: Any) -> Any:
        cache = models.new_cache(config, shape.batch, shape.prompt + shape.new)
        return model.apply(models.restack(params), ids, cache=cache, outputs="last")

    def write() -> np.ndarray:
        made = generate(model.apply, params, ids, config=config, max_new_tokens=shape.new)
        return np.asarray(made.tokens)

    return Contender(lambda: jax.block_until_ready(read(params, ids)), write)


def theirs_on(model: Any, ids: np.ndarray, shape: Shape, dtype: str) -> Contender:
    """The model of transformers."""
    import torch

    model = model.to(getattr(torch, dtype)).eval()
    prompts = torch.tensor(ids).long()
    mask = torch.ones_like(prompts)
    settings = {"max_new_tokens": shape.new, "min_new_tokens": shape.new, "do_sample": False}

    def read() -> Any:
        with torch.inference_mode():
            return model(prompts, attention_mask=mask, use_cache=True, logits_to_keep=1).logits

    def write() -> np.ndarray:
        with torch.inference_mode():
            made = model.generate(prompts, attention_mask=mask, pad_token_id=0, **settings)
        return made[:, shape.prompt :].numpy()

    return Contender(read, write)


def measure_texts(contenders: Mapping[str, Contender], rounds: int) -> tuple[Seconds, Seconds]:
    """Seconds to read the prompts, and to read and continue them, by turns."""
    reading: Seconds = {name: [] for name in contenders}
    writing: Seconds = {name: [] for name in contenders}
    for one in contenders.values():  # compiles, and warms up
        one.read()
        one.write()
    for _ in range(rounds):
        for name, one in contenders.items():
            reading[name].append(seconds(one.read))
            writing[name].append(seconds(one.write))
    return reading, writing


def seconds(run: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rates(reading: Seconds, writing: Seconds, shape: Shape) -> dict[str, dict[str, float]]:
    """Tokens/s by what is done and who does it.

    The prompt gives the first new token, so decoding is the time of writing beyond that of reading.
    """
    prefill, decode = {}, {}
    for name in reading:
        read = statistics.median(reading[name])
        beyond = statistics.median(
            write - read for write, read in zip(writing[name], reading[name], strict=True)
        )
        prefill[name] = shape.batch * shape.prompt / read
        decode[name] = shape.batch * (shape.new - 1) / beyond
    return {"prefill": prefill, "decode": decode}


def text_rows(found: Mapping[str, Mapping[str, float]], dtype: str) -> str:
    """Rows of a Markdown table, with the ratio of ours to theirs."""
    rows = []
    for what, of in found.items():
        ratio = of["lora_jax"] / of["transformers"]
        rows.append(
            f"| {what}, {dtype} | {of['lora_jax']:.0f} | {of['transformers']:.0f} | {ratio:.2f} |"
        )
    return "\n".join(rows)


def bench_texts(shape: Shape, rounds: int, threads: int, scan: bool) -> None:
    """Prints the table of tokens/s, or what is missing for it."""
    missing = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
    if missing:
        print(f"\n{' and '.join(missing)} not installed: nothing to compare generation with")
        return
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    print(f"\nGPT-2 small, {shape}; torch {torch.__version__} on {threads} threads\n")
    print("| tokens/s | lora_jax | transformers | ratio |\n|---|---|---|---|", flush=True)
    same = 0.0
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(0)
        original = transformers.GPT2LMHeadModel(transformers.GPT2Config())
        contenders = make_contenders(original, shape, dtype, scan)
        if dtype == "float32":
            texts = [one.write() for one in contenders.values()]
            same = float(np.mean(texts[0] == texts[1]))
        found = rates(*measure_texts(contenders, rounds), shape)
        print(text_rows(found, dtype), flush=True)
    print(f"\nIn float32 {same:.1%} of the new tokens are the same in both.")


# ---------------------------------------------------------------------------------------------
# Reporting


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, nargs="*", default=[12, 48], help="depths to compile")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU cores for both")
    parser.add_argument("--batch", type=int, default=Shape.batch, help="number of prompts")
    parser.add_argument("--prompt", type=int, default=Shape.prompt, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=Shape.new, help="new tokens of each text")
    parser.add_argument("--scan", action="store_true", help="scan over the layers of GPT-2")
    options = parser.parse_args()
    if options.rounds < 1 or options.new < 2 or options.threads < 1 or options.batch < 1:
        parser.error("--rounds, --threads and --batch must be at least 1, --new at least 2")
    # Before JAX starts its threads, of which it has as many as there are cores to run on.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    jax.config.update("jax_enable_compilation_cache", False)  # or compiling costs nothing
    from scripts.bench_machine import machine

    print(machine())
    if options.layers:
        print(f"\n{compile_table(measure_compiling(options.layers, options.rounds))}", flush=True)
    shape = Shape(options.batch, options.prompt, options.new)
    bench_texts(shape, options.rounds, options.threads, options.scan)


if __name__ == "__main__":
    sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))
    main()
