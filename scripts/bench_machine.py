# mypy: disable-error-code="import-not-found, import-untyped"
"""What this machine can do at most: matrix products and memory bandwidth.

    python scripts/bench_machine.py --rounds 7

prints the ceiling that the other benchmarks stand under: the rate of a square matrix product in
float32, and with bfloat16 operands summed in float32, by JAX and by torch; and the rate at which an
array far larger than the caches is read and written. Contenders take turns within every round;
medians are shown, with the slowest and the fastest round. Without torch its lines are left out.
"""

from __future__ import annotations

import argparse
import datetime as dt
import functools
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def machine() -> str:
    """Where and with what this was measured."""
    devices = jax.devices()
    return (
        f"{dt.date.today()}; {os.cpu_count()} CPU cores, {platform.machine()}; "
        f"{len(devices)} x {devices[0].device_kind}; Python {platform.python_version()}, "
        f"JAX {jax.__version__}"
    )


def our_contenders(size: int, megabytes: int) -> dict[str, tuple[Callable[[], Any], float]]:
    """What JAX runs, and the operations or bytes of each call."""
    found: dict[str, tuple[Callable[[], Any], float]] = {}
    multiply = jax.jit(lambda x: jnp.matmul(x, x, preferred_element_type=jnp.float32))
    for dtype in ("float32", "bfloat16"):
        x = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
        found[f"product, {dtype}, JAX, GFLOP/s"] = functools.partial(multiply, x), 2 * size**3
    long = jnp.ones(megabytes * 250_000, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    found["read and write, JAX, GB/s"] = functools.partial(add, long), 2 * long.nbytes
    return found


def their_contenders(size: int, megabytes: int) -> dict[str, tuple[Callable[[], Any], float]]:
    """The same in torch."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    found: dict[str, tuple[Callable[[], Any], float]] = {}
    for dtype in ("float32", "bfloat16"):
        x = torch.randn(size, size).to(getattr(torch, dtype))
        found[f"product, {dtype}, torch, GFLOP/s"] = (
            functools.partial(torch.matmul, x, x),
            2 * size**3,
        )
    long = torch.ones(megabytes * 250_000)
    found["read and write, torch, GB/s"] = functools.partial(torch.add, long, 1), 8 * long.numel()
    return found


def measure(
    contenders: dict[str, tuple[Callable[[], Any], float]], rounds: int
) -> dict[str, list[float]]:
    """The rate of each contender in each round, in thousand millions a second."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for call, _ in contenders.values():
        jax.block_until_ready(call())  # compiles, and warms up
    for _ in range(rounds):
        for name, (call, work) in contenders.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            rates[name].append(work / (time.perf_counter() - start) / 1e9)
    return rates


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender")
    parser.add_argument("--size", type=int, default=2048, help="rows of the square matrices")
    parser.add_argument("--megabytes", type=int, default=256, help="of the array that is copied")
    options = parser.parse_args()
    if min(options.rounds, options.size, options.megabytes) < 1:
        parser.error("--rounds, --size and --megabytes are at least 1")
    contenders = our_contenders(options.size, options.megabytes)
    if importlib.util.find_spec("torch") is not None:
        contenders |= their_contenders(options.size, options.megabytes)
    rates = measure(contenders, options.rounds)
    print(f"{machine()}. Products of {options.size} x {options.size}.\n")
    print("| | median | slowest | fastest |\n|---|---|---|---|")
    for name, own in rates.items():
        print(f"| {name} | {statistics.median(own):.0f} | {min(own):.0f} | {max(own):.0f} |")


if __name__ == "__main__":
    main()
