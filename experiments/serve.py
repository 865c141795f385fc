"""A base and many adapters behind OpenAI's API, for evaluation and demos.

    python -m experiments.serve --config=configs/serve.py --config.model=DIR \
        --config.adapters_root=DIR --config.adapters=french,german

Requests name the base or an adapter as their model; rows of one batch have different ones. Adapters
under the root are loaded and unloaded while the server runs. SIGTERM lets texts end, and then ends
the server. With a workdir it writes config.json, and at the end results.json with what it has done.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import jax
from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from experiments.decoder import load_decoder
from experiments.launch import launch
from experiments.settings import listed
from lora_jax import hub, models, training
from lora_jax.evaluation import Engine, TextRequest
from lora_jax.reports import installed_versions, write_results

try:
    from lora_jax import serving
except ModuleNotFoundError as error:
    package = str(error.name).partition(".")[0]
    sys.exit(f"error: {package} is not installed: pip install -e '.[serve]'")


def defaults() -> ConfigDict:
    """Every setting of a server; a config overrides some of them."""
    config = ConfigDict()
    config.model = ""  # a directory, a name on the hub, or a .bin file of llama2.c
    config.name = ""  # what clients call the base; empty: the name of its directory or file
    config.dtype = ""  # of params and products; empty: that of the files
    config.scan = False  # compiles faster for many layers, but on CPU decodes slower
    config.adapters_root = ""  # only what lies under it is ever loaded; empty: nothing
    config.adapters = ()  # directories under it that are loaded at the start; "*": all
    # The largest adapter that fits, and how many are on the device at a time.
    config.pool = ConfigDict({"targets": (lora.ALL_LINEAR,), "rank": 16, "dora": False, "slots": 8})
    config.engine = ConfigDict({"rows": 8, "room": 512, "queue_limit": 64})
    config.engine.prompt_lengths = (16, 64, 256)  # a prompt is padded to one of them
    config.limits = ConfigDict({"adapters": 64, "new_tokens": 512, "open": 128})
    config.limits.update(seconds=120.0, body_bytes=2**20)
    config.adapter_bytes = 2**30  # of an adapter's file
    config.host = "127.0.0.1"
    config.port = 8000
    config.token_variable = "LORA_JAX_TOKEN"  # of the environment; clients must send its value
    config.token_file = ""  # instead: the token is its first line
    config.drain_seconds = 30.0  # that texts may take to end after SIGTERM
    config.lock()
    return config


def main(config: ConfigDict, workdir: Path | None) -> None:
    """Serves until a signal comes."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    token = read_token(config)
    limits = serving.Limits(**config.limits)
    root, names = find_adapters(config)
    if workdir is not None:
        training.open_workdir(workdir, config.to_dict())

    # ---- The base, the pool of its adapters, the engine that writes texts, and the server
    with serving.listen(config.host, config.port, token) as listener:
        model = load(config)
        engine = make_engine(config, model)
        warm_up(engine)
        service = serving.Service(model, engine, name=name_of(config), root=root, limits=limits)
        asyncio.run(run(service, names, listener, token, config.drain_seconds, console))

    # ---- What it has done
    counts = service.metrics.totals()
    console.print(f"served {counts.get('lora_jax_tokens_total', 0):,.0f} tokens")
    if workdir is not None:
        results = {"counts": counts, "config": config.to_dict(), "versions": installed_versions()}
        write_results(workdir / "results.json", results)


def plan(config: ConfigDict) -> None:
    """Prints what would be served, and what memory it takes."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    token = read_token(config)
    serving.check_address(config.host, token)
    serving.Limits(**config.limits)
    root, names = find_adapters(config)
    model = load(config)
    engine = make_engine(config, model)
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    console.print(f"model: {model.config.model_type}, {count:,} parameters, {model.config.dtype}")
    console.print(f"pool: {megabytes(engine.pool.slots)} for {config.pool.slots} adapters of")
    console.print(f"{engine.pool.routed.lifted}")
    console.print(
        f"{config.engine.rows} texts at a time, of {config.engine.room} tokens with theirs"
    )
    console.print(
        f"adapters: {', '.join(names) or 'none'}, from {root.path if root else 'nowhere'}"
    )
    console.print(f"address: {config.host}, port {config.port}, {'a' if token else 'no'} token")


# ---------------------------------------------------------------------------------------------
# Parts


def read_token(config: ConfigDict) -> str | None:
    """The token that clients must send, if there is one; it is never printed."""
    if config.token_file:
        return Path(config.token_file).read_text(encoding="utf-8").split("\n")[0].strip()
    return os.environ.get(config.token_variable) or None


def find_adapters(config: ConfigDict) -> tuple[serving.AdapterRoot | None, list[str]]:
    """The root of adapters, and the directories under it that are loaded at the start."""
    names = listed([config.adapters] if isinstance(config.adapters, str) else config.adapters)
    if not config.adapters_root:
        if names:
            raise ValueError(f"adapters = {names}, but no --config.adapters_root that they are in")
        return None, []
    root = serving.AdapterRoot(config.adapters_root, file_bytes=config.adapter_bytes)
    names = root.names() if names == ["*"] else names
    for name in names:
        try:
            root.find(name)
        except serving.ApiError as error:
            raise ValueError(f"adapter {name!r}: {error}") from error
    return root, names


def load(config: ConfigDict) -> hub.Pretrained:
    """The base and its tokenizer."""
    model = load_decoder(config)
    if hasattr(model.config, "decoder_start_id") or hasattr(model.config, "language"):
        raise ValueError(f"a {model.config.model_type!r} is no decoder: only those are served")
    model.tokenizer.encode_ragged(["a"])  # whatever is wrong with it is told now
    return model


def name_of(config: ConfigDict) -> str:
    """What clients call the base."""
    return config.name or Path(config.model).name.removesuffix(".bin")


def make_engine(config: ConfigDict, model: hub.Pretrained) -> Engine:
    """The engine over an empty pool."""
    method = (lora.DoRA if config.pool.dora else lora.LoRA)(config.pool.rank)
    ids = jax.ShapeDtypeStruct((1, 2), "int32")
    shapes = jax.eval_shape(models.restack, model.params)
    lifted = lora.lift(model.apply, shapes, ids, method=method, targets=tuple(config.pool.targets))
    pool = lora.AdapterPool(lifted, model.params, slots=config.pool.slots)
    return Engine(pool, model.config, **config.engine)


def warm_up(engine: Engine) -> None:
    """Compiles all programs, so that no client waits for that."""
    for length in engine.prompt_lengths:
        new = min(2, engine.most_new_tokens(length))
        engine.submit(TextRequest(ids=(0,) * length, max_new_tokens=new))
    engine.run()


async def run(
    service: serving.Service,
    adapters: list[str],
    listener: socket.socket,
    token: str | None,
    drain_seconds: float,
    console: Console,
) -> None:
    """Loads the first adapters, and serves until a signal comes."""

    def announce(address: str) -> None:
        catalog = service.catalog
        wants = ", for clients that send the token" if token else ""
        console.print(f"{catalog.base} and {catalog.adapters} adapters at {address}/v1{wants}")

    async with service:
        await service.catalog.load_all(adapters)
        await serving.serve(
            service, listener, token=token, drain_seconds=drain_seconds, on_start=announce
        )


def megabytes(arrays: object) -> str:
    """The memory that arrays take."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays))
    return f"{size / 2**20:,.1f} MiB"


if __name__ == "__main__":
    launch(main, plan)
