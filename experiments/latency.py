"""What an adapter costs when a model is used: LoRA merged and unmerged, and bottleneck adapters.

    python -m experiments.latency --config=configs/latency.py --workdir=runs/latency

Times one pass of GPT-2 over a batch, for each batch size and length of a grid, as table 1 of the
LoRA paper (Hu et al., arXiv 2106.09685). All contenders are timed in turn, in every round, and each
is compared with the base in the same rounds. Weights are random: they do not change the time.
"base again" is the base with a copy of its weights: what it differs by is noise, and no contender
can be told from the base by less.
Cells of the grid that are finished are kept: the same command goes on from there. Writes
config.json, metrics.jsonl, results.json and report.html.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from experiments.latency_report import (
    AGAIN,
    BASE,
    MERGED,
    UNMERGED,
    Cell,
    print_cells,
    write_report,
)
from experiments.launch import launch
from experiments.settings import check_counts
from lora_jax import models, training
from lora_jax.evaluation import Latency, measure_latency
from lora_jax.models.bottleneck import add_bottlenecks
from lora_jax.training.metrics import read_rows

CONTENDERS = (BASE, AGAIN, MERGED, UNMERGED, "Adapter-L", "Adapter-H")


class Contender(NamedTuple):
    """A model to be timed.

    Attributes:
      run: `run(arrays, ids)`, compiled once for each shape of ids; logits of the next token.
      arrays: what it takes first.
      added: parameters beside those of the base.
    """

    run: Callable[[Any, Any], Any]
    arrays: Any
    added: int


def defaults() -> ConfigDict:
    """Every setting of the study; a config overrides some of them."""
    config = ConfigDict()
    config.model = ConfigDict({"dim": 768, "layers": 12, "heads": 12, "vocab_size": 50257})
    config.model.update(positions=1024, dtype="float32", scan=False)
    config.method = ConfigDict({"rank": 4, "alpha": 32.0})
    config.targets = ("q_proj", "v_proj")
    config.adapter_parameters = 4_000_000  # of the bottleneck adapters, to the nearest width
    config.grid = ((1, 16), (1, 128), (2, 256))  # batch size and length
    config.contenders = tuple(name for name in CONTENDERS if name != AGAIN)
    config.rounds = 25
    config.seed = 0
    config.lock()
    return config


def main(config: ConfigDict, workdir: Path | None) -> None:
    """Runs the study, or prints its plan if there is no workdir."""
    console = Console(highlight=False, soft_wrap=True)
    check(config)

    # ---- The contenders
    model = make_model_config(config)
    contenders = make_contenders(config, model)
    for name in config.contenders:
        console.print(f"{name}: {contenders[name].added:,} parameters beside the base")
    shapes = ", ".join(f"{batch} x {length}" for batch, length in config.grid)
    console.print(f"batches of {shapes} tokens, {config.rounds} rounds each")
    if workdir is None:
        return

    # ---- One cell of the grid after another, but for those of an earlier start
    training.open_workdir(workdir, config.to_dict())
    log = workdir / "metrics.jsonl"
    finished = {(row["batch"], row["length"]) for row in read_rows(log)}
    for batch, length in config.grid:
        if (batch, length) in finished:
            console.print(f"{batch} x {length}: done before")
            continue
        latencies, difference = measure(config, model, contenders, batch, length)
        seconds = {name: latency.seconds.tolist() for name, latency in latencies.items()}
        row = {"batch": batch, "length": length, "difference": difference, "seconds": seconds}
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    # ---- The report
    cells = [read_cell(row) for row in read_rows(log)]
    added = {name: contenders[name].added for name in config.contenders}
    print_cells(console, cells, added)
    write_report(workdir, config, cells, added)
    console.print(str(workdir / "report.html"))


def check(config: ConfigDict) -> None:
    """Refuses what could only fail after minutes."""
    check_counts(config, "rounds")
    if BASE not in config.contenders or not set(config.contenders) <= set(CONTENDERS):
        raise ValueError(
            f"contenders = {config.contenders}: {BASE!r} and any of {', '.join(CONTENDERS[1:])}"
        )
    for batch, length in config.grid:
        if batch < 1 or not 1 <= length <= config.model.positions:
            raise ValueError(
                f"a cell of the grid is {batch} x {length}: batches are at least 1, and lengths "
                f"from 1 to the model's {config.model.positions} positions"
            )


def make_model_config(config: ConfigDict) -> models.GPT2Config:
    """GPT-2 in the sizes that are asked for."""
    return models.GPT2Config(**config.model, ff_dim=4 * config.model.dim, eos_ids=())


def make_contenders(config: ConfigDict, model: models.GPT2Config) -> dict[str, Contender]:
    """The base twice, LoRA merged into it and beside it, and two kinds of bottleneck adapters."""
    key, lora_key, adapter_key = jax.random.split(jax.random.key(config.seed), 3)
    apply = partial(models.build(model).apply, outputs="last")
    params = jax.jit(partial(models.init, model))(key)
    ids = jax.ShapeDtypeStruct((1, 2), "int32")
    method = lora.LoRA(**config.method)
    lifted = lora.lift(apply, params, ids, method=method, targets=tuple(config.targets))
    factors = random_like(lora_key, jax.eval_shape(lifted.init, lora_key, params))
    added = lora.count_parameters(factors)
    run = jax.jit(apply)
    contenders = {
        BASE: Contender(run, params, 0),
        AGAIN: Contender(run, jax.tree.map(jnp.copy, params), 0),
        MERGED: Contender(run, lifted.merge(params, factors), 0),
        UNMERGED: Contender(jax.jit(lambda a, ids: lifted(*a, ids)), (params, factors), added),
    }
    for name, behind, normalized in (
        ("Adapter-L", ("fc2",), True),
        ("Adapter-H", ("o_proj", "fc2"), False),
    ):
        width = bottleneck_width(config, len(behind))
        deeper, arrays = add_bottlenecks(
            model, params, adapter_key, width=width, behind=behind, normalized=normalized
        )
        deeper_run = jax.jit(partial(deeper.apply, outputs="last"))
        more = lora.count_parameters(arrays) - lora.count_parameters(params)
        contenders[name] = Contender(deeper_run, arrays, more)
    return contenders


def random_like(key: jax.Array, shapes: Any) -> Any:
    """Small random factors in which B is not zero, so that ΔW is something."""
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        0.02 * jax.random.normal(k, leaf.shape, leaf.dtype)
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)


def bottleneck_width(config: ConfigDict, places: int) -> int:
    """The width that gives the adapters of all layers nearest to the parameters asked for."""
    each = config.adapter_parameters / (config.model.layers * places)
    return max(1, round(each / (2 * config.model.dim)))


def measure(
    config: ConfigDict,
    model: models.GPT2Config,
    contenders: Mapping[str, Contender],
    batch: int,
    length: int,
) -> tuple[dict[str, Latency], float]:
    """Times the contenders of the config on one batch.

    Returns:
      Their latencies, and the largest difference between the logits of merged and unmerged LoRA.
    """
    key = jax.random.key(config.seed)
    ids = jax.random.randint(key, (batch, length), 0, model.vocab_size)
    calls = {name: partial(c.run, c.arrays, ids) for name, c in contenders.items()}
    difference = np.abs(np.asarray(calls[MERGED]()) - np.asarray(calls[UNMERGED]())).max()
    calls = {name: calls[name] for name in config.contenders}
    latencies = measure_latency(calls, rounds=config.rounds, seed=config.seed)
    return latencies, float(difference)


def read_cell(row: Mapping[str, Any]) -> Cell:
    """A cell of the grid as the log has it."""
    latencies = {name: Latency(np.array(times)) for name, times in row["seconds"].items()}
    return Cell(row["batch"], row["length"], row["difference"], latencies)


if __name__ == "__main__":
    launch(main)
