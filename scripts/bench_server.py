"""What the server costs: texts over HTTP beside the same engine driven directly.

    python scripts/bench_server.py --rounds 3

A Llama with random weights, adapters of rank 8 on all linears, and texts of fixed length, greedy,
each for the next adapter. A number of connections ask without a pause: each sends its next request
when its text is there. Three ways take turns on the same requests: the engine in this process,
called between two tokens as the server does; `experiments.serve` in a process of its own, asked for
streams; and the same, asked for whole texts. Client and server share the machine's cores, so what
HTTP adds has the client's part in it. All must write the same texts, or this stops.

Tokens a second are the median of the rounds. The time to the first token, and of each further one,
are of all texts of all rounds, as median and 95th percentile; whole texts have neither.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import re
import string
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import lora_jax as lora
from experiments import serve
from lora_jax import hub, models
from lora_jax.evaluation import Engine, TextRequest
from lora_jax.evaluation.latency import turns
from lora_jax.hub.new_tokenizer import train_tokenizer
from scripts.bench_processes import ROOT
from scripts.bench_server_clients import Load, ask_engine, ask_server

RANK = 8
IDS = jax.ShapeDtypeStruct((1, 2), "int32")
ENGINE, STREAMED, WHOLE = "engine", "HTTP, streamed", "HTTP, whole"


class Shape(NamedTuple):
    """The model, the rows of the engine, and the texts."""

    dim: int = 768
    layers: int = 12
    vocabulary: int = 32000
    rows: int = 8
    adapters: int = 8
    prompt: int = 32
    new: int = 32

    def __str__(self) -> str:
        return (
            f"Llama of {self.layers} layers of width {self.dim}, {self.vocabulary} tokens, float32;"
            f" {self.rows} rows, {self.adapters} adapters of rank {RANK}, {self.new} tokens after "
            f"prompts of {self.prompt}"
        )


# ---------------------------------------------------------------------------------------------
# The model, its adapters, and what is asked


def save(shape: Shape, directory: Path) -> None:
    """Writes a model whose texts are letters, so that each token is sent, and its adapters."""
    tokenizer = train_tokenizer(directory / "model", ["a"], 257)
    config = models.DecoderConfig(
        vocab_size=shape.vocabulary,
        dim=shape.dim,
        layers=shape.layers,
        heads=shape.dim // 64,
        kv_heads=shape.dim // 64,
        head_dim=64,
        ff_dim=8 * shape.dim // 3,
        max_length=shape.prompt + shape.new,
        eos_ids=(0,),  # the end of a text, of every new tokenizer
    )
    params = jax.jit(functools.partial(models.init, config))(jax.random.key(0))
    (letters,) = tokenizer.encode_ragged([string.ascii_letters], special=False)
    is_letter = np.isin(np.arange(shape.vocabulary), letters)
    params["lm_head"]["kernel"] = params["lm_head"]["kernel"] * is_letter  # 0 is rarely the most
    made = hub.save_model(directory / "base", config, params)
    for file in (directory / "model").iterdir():
        file.rename(made / file.name)
    apply = models.build(config).apply
    lifted = lora.lift(apply, params, IDS, method=lora.LoRA(RANK), targets=lora.ALL_LINEAR)
    (directory / "adapters").mkdir()
    shapes = jax.eval_shape(lifted.init, jax.random.key(0), params)
    for i in range(shape.adapters):
        draw = np.random.default_rng(i).standard_normal
        factors = jax.tree.map(lambda x, draw=draw: np.float32(0.02) * draw(x.shape, "f"), shapes)
        hub.save_peft(directory / "adapters" / f"a{i}", lifted, factors)


def settings(shape: Shape, directory: Path) -> list[str]:
    """The flags of the server, which are those of the engine here, too."""
    return [
        f"--config={ROOT / 'configs' / 'serve.py'}",
        f"--config.model={directory / 'base'}",
        f"--config.adapters_root={directory / 'adapters'}",
        "--config.adapters=*",
        "--config.port=0",
        f"--config.pool.rank={RANK}",
        f"--config.pool.slots={shape.adapters}",
        f"--config.engine.rows={shape.rows}",
        f"--config.engine.room={shape.prompt + shape.new}",
        f"--config.engine.prompt_lengths=({shape.prompt},)",
    ]


def make_engine(shape: Shape, directory: Path) -> tuple[Engine, hub.Pretrained]:
    """The engine of the server, with all adapters, in this process."""
    config = serve.defaults()
    config.pool.update(rank=RANK, slots=shape.adapters)
    config.engine.update(rows=shape.rows, room=shape.prompt + shape.new)
    config.engine.prompt_lengths = (shape.prompt,)
    config.model = str(directory / "base")
    model = serve.load(config)
    engine = serve.make_engine(config, model)
    stacks = models.restack(model.params)
    for name in adapter_names(shape):
        found = hub.lift_peft(directory / "adapters" / name, model.apply, stacks, IDS)
        engine.pool.add(name, *found)
    serve.warm_up(engine)
    return engine, model


def adapter_names(shape: Shape) -> list[str]:
    """Of all adapters."""
    return [f"a{i}" for i in range(shape.adapters)]


def make_requests(shape: Shape, count: int) -> list[TextRequest]:
    """Random prompts, each for the next adapter."""
    prompts = np.random.default_rng(0).integers(1, shape.vocabulary, (count, shape.prompt))
    names = itertools.cycle(adapter_names(shape))
    return [
        TextRequest(ids=tuple(ids), adapter=name, max_new_tokens=shape.new)
        for ids, name in zip(prompts.tolist(), names, strict=False)
    ]


@contextlib.contextmanager
def server(shape: Shape, directory: Path) -> Iterator[str]:
    """A server in a process of its own; its host and port."""
    command = [sys.executable, "-m", "experiments.serve", *settings(shape, directory)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, "")
        found = next(filter(None, (re.search(r"//(\S+)/v1", line) for line in lines)), None)
        if found is None:
            raise RuntimeError(f"the server ended with {process.wait()} before it could be asked")
        yield found[1]
    finally:
        process.terminate()
        process.communicate()


# ---------------------------------------------------------------------------------------------
# Measuring and reporting


def measure(
    ways: Mapping[str, Callable[[], Load]], rounds: int
) -> tuple[dict[str, list[Load]], list[str]]:
    """Lets all ways take turns; also the texts, which must be the same in all.

    Raises:
        RuntimeError: they are not.
    """
    loads: dict[str, list[Load]] = {name: [] for name in ways}
    wanted = [text.text for text in next(iter(ways.values()))().texts]
    for _, name in turns(list(ways), rounds):
        load = ways[name]()
        wrong = sum(text.text != own for text, own in zip(load.texts, wanted, strict=True))
        if wrong:
            raise RuntimeError(f"{name}: {wrong} of {len(wanted)} texts are others than at first")
        loads[name].append(load)
    return loads, wanted


HEADER = """\
| connections | | tokens/s | to the engine | first token, ms, p50 | p95 \
| each further token, ms, p50 | p95 |
|---|---|---|---|---|---|---|---|"""


def rows(connections: int, loads: dict[str, list[Load]], tokens: int) -> list[str]:
    """Lines of the Markdown table, one for each way."""
    lines = []
    direct = np.array([load.seconds for load in loads[ENGINE]])
    for name, own in loads.items():
        taken = np.array([load.seconds for load in own])
        cells = [f"{connections}", name, f"{tokens / np.median(taken):.0f}"]
        cells.append(f"{np.median(direct / taken):.2f}")
        for field in ("first", "each"):
            times = np.array([getattr(text, field) for load in own for text in load.texts])
            ends = [] if name == WHOLE else np.percentile(1000 * times, (50, 95))
            cells += [f"{x:.1f}" for x in ends] or ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way")
    parser.add_argument("--requests", type=int, default=32, help="texts of a turn")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 16])
    for field, default in Shape._field_defaults.items():
        parser.add_argument(f"--{field}", type=int, default=default)
    options = vars(parser.parse_args())
    rounds, count = options.pop("rounds"), options.pop("requests")
    connections = options.pop("connections")
    if min(rounds, count, *connections, *options.values()) < 1 or options["dim"] % 192:
        parser.error("every number must be at least 1, and --dim a multiple of 192")
    from scripts.bench_machine import machine

    shape = Shape(**options)
    print(f"{machine()}; {os.cpu_count()} cores for client and server.\n\n{shape}.\n\n{HEADER}")
    with tempfile.TemporaryDirectory() as name:
        save(shape, Path(name))
        engine, model = make_engine(shape, Path(name))
        requests = make_requests(shape, count)
        with server(shape, Path(name)) as address:
            for open_ in connections:
                ask = functools.partial(ask_server, address, requests, open_)
                ways = {
                    ENGINE: functools.partial(ask_engine, engine, model.tokenizer, requests, open_),
                    STREAMED: functools.partial(ask, stream=True),
                    WHOLE: functools.partial(ask, stream=False),
                }
                loads, _ = measure(ways, rounds)
                print("\n".join(rows(open_, loads, count * shape.new)), flush=True)


if __name__ == "__main__":
    main()
