"""What a model will read and learn: examples with the trained tokens coloured, lengths, losses.

    python -m experiments.inspect_data --config=configs/inspect_data.py:gsm8k --dry_run \
        --config.model=MODEL

Prints a few examples, a histogram of the lengths, how much of padded and of packed rows is padding,
which records were cut or left out, and any whose answer is not exactly what is trained. With a
workdir it writes results.json.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.text import Text

from experiments.launch import launch
from lora_jax import hub
from lora_jax.data import TextEncoder, TextRecord, efficiency, load_text_task, pack, pad
from lora_jax.data.audit import find_lost_answers
from lora_jax.data.encode_text import EncodedTexts
from lora_jax.data.packing import Example
from lora_jax.hub.tokenizer import Tokenizer
from lora_jax.reports import write_results

BARS = 12
WIDTH = 50


def defaults() -> ConfigDict:
    """Every setting; a config overrides some of them."""
    config = ConfigDict()
    config.task = ConfigDict({"name": ""})
    config.task.options = ConfigDict()
    config.model = ""  # a directory, a name on the hub, or a .bin file of llama2.c
    config.split = "train"  # or "validation", "test"
    config.records = 1000  # at most
    config.show = 3  # examples that are printed
    config.encoding = ConfigDict({"length": 512, "template": "plain", "separator": "\n"})
    config.encoding.update(instruction="", end="", train_on="turns", truncate="none")
    config.encoding.bad_rows = "skip"
    config.lock()
    return config


def main(config: ConfigDict, workdir: Path | None) -> None:
    """Prints what there is to see, and writes it down if there is a workdir."""
    console = Console(highlight=False, soft_wrap=True)
    if config.split not in ("train", "validation", "test"):
        raise ValueError(f"split is {config.split!r}, not 'train', 'validation' or 'test'")
    if not config.model:
        raise ValueError("give --config.model: a directory, a name on the hub, or a .bin file")

    # ---- Records to tokens
    task = load_text_task(config.task.name, config.task.options.to_dict())
    every: Sequence[TextRecord] = getattr(task, config.split)
    records = [every[i] for i in range(min(config.records, len(every)))]
    model = hub.load_model(config.model)
    shows = any(record.images for record in records)
    encoder = TextEncoder(
        tokenizer=model.tokenizer,
        processor=model.processor if shows else None,
        **config.encoding.to_dict(),
    )
    encoded = encoder.encode(records)
    if not encoded.examples:
        raise ValueError(f"no record is left; the first was refused: {encoded.skipped[0]}")

    # ---- What is in them
    console.print(f"[bold]{task.name}[/bold], {config.split}: {len(every):,} records. {task.about}")
    for example in encoded.examples[: config.show]:
        console.print(spell(example, model.tokenizer), end="\n\n")
    lengths = np.array([len(example["ids"]) for example in encoded.examples])
    console.print("tokens of an example:")
    for line in histogram(lengths):
        console.print(line, markup=False)
    found = summarise(encoded, records, encoder, lengths)
    lost = found["lost"]
    console.print(
        f"{found['examples']:,} examples of {len(records):,} records, {found['tokens']:,} tokens, "
        f"{found['trained']:.1%} of them trained; {len(encoded.cut)} prompts cut, "
        f"{len(encoded.skipped)} records left out"
    )
    console.print(
        f"real tokens among all: {found['padded']:.1%} padded, {found['packed']:.1%} packed, in "
        f"rows of {encoder.length}"
    )
    for fault in (*task.skipped[:5], *encoded.skipped[:5]):
        console.print(f"left out: {fault}", style="yellow", markup=False)
    for fault in lost[:5]:
        console.print(f"lost its answer: {fault}", style="red", markup=False)
    console.print(f"{len(lost)} examples lost their answer", style="red" if lost else "green")
    if workdir is not None:
        workdir.mkdir(parents=True, exist_ok=True)
        others = {"cut": encoded.cut, "skipped": (*task.skipped, *encoded.skipped)}
        write_results(workdir / "results.json", found | others | {"config": config.to_dict()})


def spell(example: Example, tokenizer: Tokenizer) -> Text:
    """An example, its trained tokens in green, control tokens by their names."""
    text = Text()
    edges = [0, *(np.flatnonzero(np.diff(example["trained"])) + 1).tolist(), len(example["ids"])]
    for start, stop in itertools.pairwise(edges):
        style = "bold green" if example["trained"][start] else "dim"
        text.append(tokenizer.decode(example["ids"][start:stop], special=True), style=style)
    return text


def histogram(lengths: np.ndarray) -> list[str]:
    """A bar for each of a few ranges of lengths."""
    counts, edges = np.histogram(lengths, bins=min(BARS, int(np.ptp(lengths)) + 1))
    return [
        f"{edges[i]:7.0f} to {edges[i + 1]:7.0f} {'█' * round(WIDTH * n / counts.max())} {n:,}"
        for i, n in enumerate(counts)
    ]


def summarise(
    encoded: EncodedTexts,
    records: Sequence[TextRecord],
    encoder: TextEncoder,
    lengths: np.ndarray,
) -> dict:
    """Counts, shares, and the answers that are lost."""
    everything = encoder.train_on == "everything"
    return {
        "examples": len(encoded.examples),
        "tokens": int(lengths.sum()),
        "longest": int(lengths.max()),
        "median": float(np.median(lengths)),
        "trained": float(sum(e["trained"].sum() for e in encoded.examples) / lengths.sum()),
        "padded": efficiency(pad(encoded.examples, encoder.length)),
        "packed": efficiency(pack(encoded.examples, encoder.length)),
        "lost": [] if everything else list(find_lost_answers(encoded, records, encoder)),
    }


if __name__ == "__main__":
    launch(main, lambda config: main(config, None))
