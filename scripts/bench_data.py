"""How fast the input pipeline is beside what a training step consumes on the same machine.

    LORA_JAX_DATA=DIR python scripts/bench_data.py

DIR holds e2e_nlg/ and stories260k/. Prints a Markdown section: tokens a second of each stage from
files to batches (reading, tokenising, packing, batching), of all of them together, and of training
steps of LoRA on stories260K, the smallest and so the fastest decoder there is, and on MiniLM where
its files are here. The stages before batching are paid once, whatever the number of passes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import lora_jax as lora
from configs import minilm
from lora_jax import hub, training
from lora_jax.data import (
    TextEncoder,
    encode,
    load_task,
    load_text_task,
    pack,
    training_batches,
)
from lora_jax.training import classifier, language_model

BATCH, LENGTH = 16, 256
TARGETS = ("q_proj", "v_proj")
OPTIMIZER = {"learning_rate": 1e-3}


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, found


def batch_rate(batches: Any, count: Callable[[Mapping[str, np.ndarray]], int]) -> float:
    """Real tokens a second that an iterator over batches gives: the median of a few rounds."""
    rates = []
    for _ in range(5):
        seconds, found = timed(lambda: list(itertools.islice(batches, 50)))
        rates.append(sum(map(count, found)) / seconds)
    return statistics.median(rates)


def step_rate(
    step: Any,
    state: Any,
    frozen: Any,
    batches: Any,
    count: Callable[[Mapping[str, np.ndarray]], int],
    rounds: int,
) -> float:
    """Real tokens a second that training steps take in: the median of several, compiled before."""
    rates = []
    for number in range(rounds + 1):
        batch = next(batches)
        seconds, (state, _) = timed(partial(_run, step, state, frozen, batch))
        if number:
            rates.append(count(batch) / seconds)
    return statistics.median(rates)


def _run(step: Any, state: Any, frozen: Any, batch: Any) -> Any:
    return jax.block_until_ready(step(state, frozen, batch))


def train_state(variables: Any, loss: Any) -> tuple[Any, Any, Any]:
    """A compiled step of LoRA with its state and what is frozen."""
    frozen = [("params/.*", None)]
    trained = [(f"{name}/.*", name) for name in variables if name != "params"]
    labels = training.label(variables, [*trained, *frozen])
    optimizer = training.make_optimizer(OPTIMIZER, labels, steps=100)
    state, frozen = training.init_state(variables, labels, optimizer, jax.random.key(0))
    return training.make_step(loss, optimizer), state, frozen


def decoder(directory: Path, records: int, rounds: int) -> tuple[list[tuple[str, float]], float]:
    """Rates of the stages for E2E NLG packed for stories260K, and of the step."""
    base = hub.load_model(directory / "stories260k" / "stories260K.bin")
    reading, task = timed(lambda: load_text_task("e2e_nlg"))
    encoder = TextEncoder(tokenizer=base.tokenizer, length=LENGTH, bad_rows="skip")
    encoding, found = timed(lambda: encoder.encode(task.train[:records]))
    packing, rows = timed(lambda: pack(found.examples, LENGTH))
    count = lambda batch: int((batch["segments"] != 0).sum())
    tokens = count(rows)
    reading *= len(found.examples) / len(task.train)  # of as many as are encoded
    batching = batch_rate(training_batches(rows, BATCH, seed=0), count)
    ids = jax.ShapeDtypeStruct((BATCH, LENGTH), "int32")
    lifted = lora.lift(base.apply, base.params, ids, targets=TARGETS)
    outputs = language_model.make_outputs(base, lifted)
    variables = language_model.init_variables(base, lifted, jax.random.key(0))
    step, state, frozen = train_state(variables, partial(language_model.loss, outputs))
    rate = step_rate(step, state, frozen, training_batches(rows, BATCH, seed=0), count, rounds)
    return stages(tokens, reading, encoding, packing, batching), rate


def classifier_of_texts(records: int, rounds: int) -> tuple[list[tuple[str, float]], float]:
    """Rates of the stages for SST-2 encoded for MiniLM, and of the step."""
    base = hub.load_model(minilm.find())
    reading, task = timed(lambda: load_task("sst2"))
    encoding, examples = timed(lambda: encode(task.train[:records], base.tokenizer, 64))
    count = lambda batch: int(batch["mask"].sum())
    reading *= len(examples["ids"]) / len(task.train)
    batching = batch_rate(training_batches(examples, BATCH, seed=0), count)
    ids = jax.ShapeDtypeStruct((BATCH, 64), "int32")
    lifted = lora.lift(base.apply, base.params, ids, ids, ids, targets=TARGETS)
    outputs = classifier.make_outputs(base, lifted, "mean")
    variables = classifier.init_variables(base, lifted, task.outputs, jax.random.key(0))
    step, state, frozen = train_state(variables, partial(classifier.loss, outputs))
    batches = training_batches(examples, BATCH, seed=0)
    rate = step_rate(step, state, frozen, batches, count, rounds)
    return stages(count(examples), reading, encoding, 0.0, batching), rate


def stages(
    tokens: int, reading: float, encoding: float, packing: float, batching: float
) -> list[tuple[str, float]]:
    """Tokens a second of each stage, and of all of them one after another."""
    seconds = {"reading files": reading, "tokenising": encoding, "packing": packing}
    together = sum(seconds.values()) + tokens / batching
    rates = [(name, tokens / value) for name, value in seconds.items() if value]
    return [*rates, ("batching", batching), ("all, in the first pass", tokens / together)]


def table(name: str, stages: list[tuple[str, float]], step: float) -> list[str]:
    """A Markdown table: rates, and their ratios to what a step takes in."""
    lines = [
        f"{name}, batches of {BATCH}; a training step takes in {step:,.0f} tokens a second:",
        "",
        "| stage | tokens/s | × the step's |",
        "|---|---|---|",
    ]
    lines += [f"| {stage} | {rate:,.0f} | {rate / step:,.1f} |" for stage, rate in stages]
    return [*lines, ""]


def main() -> None:
    """Measures, and prints the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=20000, help="of each set that are encoded")
    parser.add_argument("--rounds", type=int, default=20, help="training steps that are timed")
    options = parser.parse_args()
    directory = Path(os.environ.get("LORA_JAX_DATA", ""))
    if not (directory / "stories260k").is_dir():
        parser.error("LORA_JAX_DATA names no directory that holds stories260k/")
    from scripts.bench_machine import machine

    lines = [f"{machine()}. Tokens are real ones; padding does not count.", ""]
    sizes = (options.records, options.rounds)
    lines += table("E2E NLG for stories260K, packed", *decoder(directory, *sizes))
    if Path(minilm.find()).is_dir():
        lines += table("SST-2 for MiniLM", *classifier_of_texts(*sizes))
    print("\n".join(lines))


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    main()
