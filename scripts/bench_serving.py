# mypy: disable-error-code="import-not-found, import-untyped"
"""What many adapters in one batch cost: routed decoding beside the base, and beside PEFT's.

    python scripts/bench_serving.py --rounds 5 --threads 2

Llamas of some sizes with random weights continue a batch of prompts, greedily: the base alone, one
unmerged adapter for all rows, and a pool whose rows have an adapter of their own (rank 8 on all
linears); PEFT generates the same shapes with `adapter_names`, its inference for mixed batches. The
smaller the model, the less of a token's time is reading the base's weights, which no routing can
save. Then what it takes to add an adapter and to bring one to the device, and three ways to
multiply rows with their own A and B, at the last size: batched by row, as the pool does; rows
sorted by adapter (`ragged_dot`); and all adapters at once with the others masked. Contenders take
turns within every round; medians are shown. PEFT's part needs torch, transformers and peft, and
says so where they are missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import lora_jax as lora
from lora_jax import models
from lora_jax.evaluation import Latency, generate, measure_latency

RANK = 8
SIZES = ((4, 256), (8, 512), (12, 768))
DTYPES = ("float32", "bfloat16")
BASE, ONE, ROUTED, PEFT_BASE, PEFT = "base", "one adapter", "routed", "PEFT base", "PEFT mixed"


class Shape(NamedTuple):
    """Rows, tokens of a prompt, new tokens of each, and the model's width, layers and type."""

    rows: int = 8
    prompt: int = 32
    new: int = 32
    dim: int = 768
    layers: int = 12
    dtype: str = "float32"

    @property
    def model(self) -> models.DecoderConfig:
        """A Llama of this size; it has no token that ends a text."""
        heads = self.dim // 64
        return models.DecoderConfig(
            vocab_size=32000,
            dim=self.dim,
            layers=self.layers,
            heads=heads,
            kv_heads=heads,
            head_dim=64,
            ff_dim=64 * -(-8 * self.dim // 192),
            max_length=self.prompt + self.new,
            eos_ids=(),
            scan=False,
            dtype=self.dtype,
        )


# ---------------------------------------------------------------------------------------------
# Ours


def make_ours(shape: Shape) -> tuple[dict[str, Callable[[], Any]], lora.AdapterPool, Any]:
    """The contenders by name, the pool, and an adapter that fits it."""
    config = shape.model
    apply = models.build(config).apply
    init = lambda key: jax.tree.map(lambda x: x.astype(shape.dtype), models.init(config, key))
    stacks = jax.jit(init)(jax.random.key(0))
    ids = jax.random.randint(jax.random.key(1), (shape.rows, shape.prompt), 0, config.vocab_size)
    abstract = jax.ShapeDtypeStruct(ids.shape, ids.dtype)
    lifted = lora.lift(apply, stacks, abstract, method=lora.LoRA(RANK), targets=lora.ALL_LINEAR)
    shapes = jax.eval_shape(lifted.init, jax.random.key(0), stacks)
    params = models.unstack(stacks)
    pool = lora.AdapterPool(lifted, params, slots=shape.rows)
    adapters = [random_like(i, shapes) for i in range(shape.rows)]
    for i, factors in enumerate(adapters):
        pool.add(str(i), lifted, factors)

    def alone(variables: Any, *args: Any, **named: Any) -> Any:
        return lifted(*variables, *args, **named)

    texts = partial(generate, config=config, max_new_tokens=shape.new)
    variables = pool.variables([str(i) for i in range(shape.rows)])
    calls: dict[str, Callable[[], Any]] = {
        BASE: partial(texts, apply, params, ids),
        ONE: partial(texts, alone, (params, jax.device_put(adapters[0])), ids),
        ROUTED: partial(texts, pool.routed.apply, variables, ids),
    }
    return calls, pool, (lifted, adapters[0])


def random_like(seed: int, shapes: Any) -> Any:
    """Random factors on the host."""
    draw = np.random.default_rng(seed).standard_normal
    return jax.tree.map(lambda leaf: np.float32(0.02) * draw(leaf.shape, np.float32), shapes)


def time_switching(pool: lora.AdapterPool, adapter: Any) -> tuple[float, float]:
    """Milliseconds to add an adapter on the host, and to bring it to the device, medians of 9."""
    adding, bringing = [], []
    for i in range(9):
        start = time.perf_counter()
        pool.add(f"new {i}", *adapter)
        adding.append(time.perf_counter() - start)
        start = time.perf_counter()
        pool.rows([f"new {i}"])
        jax.block_until_ready(pool.slots)
        bringing.append(time.perf_counter() - start)
    return 1000 * float(np.median(adding)), 1000 * float(np.median(bringing))


# ---------------------------------------------------------------------------------------------
# PEFT


def make_peft(shape: Shape, threads: int) -> dict[str, Callable[[], Any]]:
    """The same model and adapters of the same size in PEFT."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(threads)
    config = shape.model
    model: Any = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.dim,
            intermediate_size=config.ff_dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.max_length,
            eos_token_id=None,
            pad_token_id=0,
        )
    ).to(getattr(torch, shape.dtype))
    settings = peft.LoraConfig(r=RANK, target_modules="all-linear", init_lora_weights=False)
    model = peft.get_peft_model(model, settings, adapter_name="0")
    for i in range(1, shape.rows):
        model.add_adapter(str(i), settings)
    model.eval()
    ids = torch.randint(1, config.vocab_size, (shape.rows, shape.prompt))
    fixed = {"max_new_tokens": shape.new, "min_new_tokens": shape.new, "do_sample": False}

    def write(names: list[str]) -> Any:
        with torch.inference_mode():
            texts: Any = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), adapter_names=names, **fixed
            )
        return texts.numpy()

    return {
        PEFT_BASE: partial(write, ["__base__"] * shape.rows),
        PEFT: partial(write, [str(i) for i in range(shape.rows)]),
    }


# ---------------------------------------------------------------------------------------------
# Ways to multiply rows with their own factors


def make_products(rows: int, length: int, dim: int, adapters: int) -> dict[str, Callable[[], Any]]:
    """``x·A·B`` of one projection, A and B of each row's adapter, rows sorted by adapter."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (rows, length, dim))
    a = jax.random.normal(keys[1], (adapters, dim, RANK))
    b = jax.random.normal(keys[2], (adapters, RANK, dim))
    own = jnp.sort(jnp.arange(rows) % adapters)

    def by_row(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum("nld,ndr,nro->nlo", x, a, b, optimize=[(0, 1), (0, 1)])

    def grouped(x: jax.Array, a: jax.Array, b: jax.Array, own: jax.Array) -> jax.Array:
        sizes = jnp.bincount(own, length=adapters) * length
        inner = lax.ragged_dot(x.reshape(-1, dim), a, sizes)
        return lax.ragged_dot(inner, b, sizes).reshape(x.shape)

    def masked(x: jax.Array, a: jax.Array, b: jax.Array, own: jax.Array) -> jax.Array:
        inner = jnp.einsum("nld,kdr->nlkr", x, a)
        inner = jnp.where((own[:, None] == jnp.arange(adapters))[:, None, :, None], inner, 0)
        return jnp.einsum("nlkr,kro->nlo", inner, b)

    # Gathered beforehand, as the pool does once for a whole text.
    return {
        "by row": partial(jax.jit(by_row), x, a[own], b[own]),
        "sorted, ragged_dot": partial(jax.jit(grouped), x, a, b, own),
        "all, masked": partial(jax.jit(masked), x, a, b, own),
    }


def products_table(dim: int, rounds: int) -> str:
    """A Markdown table of microseconds."""
    lines: list[str] = []
    for rows, length, adapters in ((8, 1, 8), (8, 128, 8), (32, 1, 4), (8, 1, 64)):
        calls = make_products(rows, length, dim, adapters)
        found = measure_latency(calls, rounds=rounds)
        if not lines:
            lines = [f"| rows x tokens, adapters | {' | '.join(found)} |", "|---" * 4 + "|"]
        times = " | ".join(f"{1e6 * latency.median:.0f}" for latency in found.values())
        lines.append(f"| {rows} x {length}, {adapters} | {times} |")
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------
# Reporting


RATIOS = ((ROUTED, BASE), (ONE, BASE), (ROUTED, PEFT), (BASE, PEFT_BASE))
CONTENDERS = (BASE, ONE, ROUTED, PEFT_BASE, PEFT)


def header() -> str:
    """The first lines of the table of tokens/s."""
    ratios = [f"{name} / {other}" for name, other in RATIOS]
    return f"| layers x width, type | {' | '.join([*CONTENDERS, *ratios])} |\n{'|---' * 10}|"


def rates_row(shape: Shape, found: Mapping[str, Latency]) -> str:
    """A line of it: tokens/s, then the ratios that matter with their 95 % intervals."""
    tokens = shape.rows * shape.new
    cells = [f"{shape.layers} x {shape.dim}, {shape.dtype}"]
    for name in CONTENDERS:
        cells.append(f"{tokens / found[name].median:.0f}" if name in found else "")
    for name, other in RATIOS:
        known = name in found and other in found
        ratio, low, high = found[other].ratio_to(found[name]) if known else (0.0, 0.0, 0.0)
        cells.append(f"{ratio:.2f} ({low:.2f} – {high:.2f})" if known else "")
    return f"| {' | '.join(cells)} |"


def size(text: str) -> tuple[int, int]:
    """Layers and width, written as 12x768."""
    layers, _, dim = text.partition("x")
    if not (layers.isdigit() and dim.isdigit() and int(layers) and int(dim) and int(dim) % 64 == 0):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not layers x width such as 12x768, where the width is a multiple of 64"
        )
    return int(layers), int(dim)


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU cores for both")
    parser.add_argument("--sizes", type=size, nargs="+", default=SIZES, help="layers x width")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    for field in ("rows", "prompt", "new"):
        parser.add_argument(f"--{field}", type=int, default=Shape._field_defaults[field])
    options = parser.parse_args()
    rounds, threads = options.rounds, options.threads
    if min(rounds, threads, options.rows, options.prompt, options.new) < 1:
        parser.error("every number must be at least 1")
    # Before JAX starts its threads, of which it has as many as there are cores to run on.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    from scripts.bench_machine import machine

    print(machine())
    if missing := [n for n in ("torch", "transformers", "peft") if not importlib.util.find_spec(n)]:
        print(f"{' and '.join(missing)} not installed: nothing to compare with")
    print(
        f"\nTokens/s of {options.rows} texts at a time, {options.new} tokens after prompts of "
        f"{options.prompt}; adapters of rank {RANK} on all linears\n\n{header()}"
    )
    for dtype in options.dtypes:
        for layers, dim in options.sizes:
            shape = Shape(options.rows, options.prompt, options.new, dim, layers, dtype)
            calls, pool, adapter = make_ours(shape)
            if not missing:
                calls |= make_peft(shape, threads)
            print(rates_row(shape, measure_latency(calls, rounds=rounds, warmup=1)), flush=True)
    adding, bringing = time_switching(pool, adapter)
    print(f"\nAn adapter is added in {adding:.1f} ms, and brought to the device in {bringing:.1f}.")
    print(f"\nx·A·B of one projection, µs\n\n{products_table(shape.dim, 4 * rounds)}")


if __name__ == "__main__":
    sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))
    main()
