"""What lifting costs: one transformer with LoRA by hand, lifted, on dense W + ΔW, and without.

    python scripts/bench_lift.py --layers 12 48 --rounds 15

For each depth, scanned and unrolled, it prints the time to trace, the time to compile, and the time
of a training step's gradient (forward and backward, no optimiser), with ratios to the hand-written
model. The contenders of a table take turns within every round, so a noisy machine disturbs them
alike; medians are shown, with the operations that the compiler counts (of a loop, those of one
pass) and the memory that the program works in. Expected: lifted within the noise of by hand (ratio
1.0) in step time.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import lora_jax as lora

Params = dict[str, Any]
PROJECTIONS = ("q", "k", "v", "o", "up", "down")

# ---------------------------------------------------------------------------------------------
# The model, without LoRA and with LoRA written by hand


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of the transformer and of its batch."""

    layers: int = 12
    dim: int = 256
    hidden: int = 1024
    heads: int = 4
    vocabulary: int = 512
    batch: int = 4
    length: int = 128
    rank: int = 8
    alpha: float = 16.0
    scan: bool = True
    remat: bool = False

    def __str__(self) -> str:
        how = "scanned" if self.scan else "unrolled"
        remat = ", rematerialised" if self.remat else ""
        return (
            f"{self.layers} layers, {how}{remat}: width {self.dim}, perceptron {self.hidden}, "
            f"{self.heads} heads, vocabulary {self.vocabulary}, batch {self.batch}, "
            f"length {self.length}, rank {self.rank}"
        )


def init(key: Array, shape: Shape) -> Params:
    """Stacked weights, each with variance one over its inputs."""
    dim, hidden = shape.dim, shape.hidden
    sizes = dict.fromkeys("qkvo", (dim, dim)) | {"up": (dim, hidden), "down": (hidden, dim)}
    keys = iter(jax.random.split(key, 1 + len(sizes)))

    def normal(*size: int) -> Array:
        return jax.random.normal(next(keys), size) / size[-2] ** 0.5

    layers = {name: normal(shape.layers, *size) for name, size in sizes.items()}
    layers["norm"] = jnp.ones((shape.layers, 2, dim))
    return {"embed": normal(shape.vocabulary, dim), "layers": layers}


def normalise(x: Float[Array, "batch length dim"], gain: Float[Array, " dim"]) -> Array:
    """Layer normalisation without a bias."""
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * gain


def block(x: Array, norm: Array, heads: int, project: Callable[[Array, str], Array]) -> Array:
    """A pre-norm block; `project(x, name)` multiplies with one of its six matrices."""
    y = normalise(x, norm[0])
    q, k, v = (project(y, name).reshape(*y.shape[:2], heads, -1) for name in "qkv")
    x = x + project(jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(y.shape), "o")
    return x + project(jax.nn.gelu(project(normalise(x, norm[1]), "up")), "down")


def plain_layer(x: Array, layer: Params, shape: Shape) -> Array:
    """One block, with its frozen weights alone."""
    return block(x, layer["norm"], shape.heads, lambda x, name: x @ layer[name])


def layer_by_hand(x: Array, layer: tuple[Params, Params], shape: Shape) -> Array:
    """The same with x·W + (α/r · x·A)·B in each of the six places, as fast as we can write it."""
    weights, factors = layer

    def project(x: Array, name: str) -> Array:
        # The barrier keeps XLA from undoing what makes A's gradient fast on a CPU.
        a = jax.lax.optimization_barrier(factors[name]["a"].T)
        low_rank = shape.alpha / shape.rank * jnp.einsum("...i,ri->...r", x, a)
        return x @ weights[name] + low_rank @ factors[name]["b"]

    return block(x, weights["norm"], shape.heads, project)


def through_layers(layer: Callable[..., Array], x: Array, layers: Any, shape: Shape) -> Array:
    """Runs stacked layers one after another, scanned or unrolled, rematerialised or not."""
    layer = functools.partial(layer, shape=shape)
    if shape.remat:
        layer = jax.checkpoint(layer, prevent_cse=not shape.scan)
    if shape.scan:
        return jax.lax.scan(lambda x, weights: (layer(x, weights), None), x, layers)[0]
    for i in range(shape.layers):
        x = layer(x, jax.tree.map(lambda leaf, i=i: leaf[i], layers))
    return x


def apply(
    params: Params, ids: Int[Array, "batch length"], shape: Shape
) -> Float[Array, "batch length vocabulary"]:
    """Logits of the plain model."""
    x = through_layers(plain_layer, params["embed"][ids], params["layers"], shape)
    return x @ params["embed"].T


def apply_by_hand(
    params: Params, factors: Params, ids: Int[Array, "batch length"], shape: Shape
) -> Float[Array, "batch length vocabulary"]:
    """Logits of the model with LoRA written into it."""
    stacked = {name: factors[f"layers/{name}"] for name in PROJECTIONS}
    layers = (params["layers"], stacked)
    x = through_layers(layer_by_hand, params["embed"][ids], layers, shape)
    return x @ params["embed"].T


def next_token_loss(logits: Float[Array, "batch length vocabulary"], ids: Array) -> Array:
    """Mean cross-entropy of each token given those before it."""
    log_probabilities = jax.nn.log_softmax(logits[:, :-1])
    return -jnp.take_along_axis(log_probabilities, ids[:, 1:, None], axis=-1).mean()


# ---------------------------------------------------------------------------------------------
# The contenders: gradients of the loss with respect to what is trained

Gradient = Callable[[Params, Params, Array], Any]


def lift(params: Params, ids: Array, shape: Shape) -> lora.Lifted:
    """The plain model, lifted on the six projections of its blocks."""
    method = lora.LoRA(rank=shape.rank, alpha=shape.alpha)
    model = functools.partial(apply, shape=shape)
    targets = tuple(f"layers/{name}" for name in PROJECTIONS)
    return lora.lift(model, params, ids, method=method, targets=targets, strict=True)


def contenders(lifted: lora.Lifted, shape: Shape) -> dict[str, Gradient]:
    """``gradient(trained, params, ids)`` of each way to train."""

    def by_hand(factors: Params, params: Params, ids: Array) -> Array:
        return next_token_loss(apply_by_hand(params, factors, ids, shape), ids)

    def with_lift(factors: Params, params: Params, ids: Array) -> Array:
        return next_token_loss(lifted(params, factors, ids), ids)

    def on_dense_weights(factors: Params, params: Params, ids: Array) -> Array:
        return next_token_loss(apply(lifted.merge(params, factors), ids, shape), ids)

    def without_lora(_factors: Params, params: Params, ids: Array) -> Array:
        return next_token_loss(apply(params, ids, shape), ids)

    def full_fine_tuning(_factors: Params, params: Params, ids: Array) -> Params:
        return jax.grad(without_lora, argnums=1)({}, params, ids)

    return {
        "by hand": jax.grad(by_hand),
        "lifted": jax.grad(with_lift),
        "dense W + ΔW": jax.grad(on_dense_weights),
        "plain, all weights trained": full_fine_tuning,
        "plain, forward only": without_lora,
    }


# ---------------------------------------------------------------------------------------------
# Measuring


@dataclasses.dataclass
class Times:
    """Seconds of one contender, `step` over the rounds; and what its program takes."""

    trace: float
    compile: float
    flops: float = 0.0  # as the compiler counts them: of a loop, one pass
    memory: int = 0  # bytes besides arguments and results
    step: list[float] = dataclasses.field(default_factory=list)


def measure(shape: Shape, rounds: int) -> dict[str, Times]:
    """Compiles every contender, then lets them take turns for a number of rounds."""
    params = init(jax.random.key(0), shape)
    ids = jax.random.randint(jax.random.key(1), (shape.batch, shape.length), 0, shape.vocabulary)
    lifted = lift(params, ids, shape)
    factors = lifted.init(jax.random.key(2), params)
    arguments = (factors, params, ids)
    programs, times = {}, {}
    for name, gradient in contenders(lifted, shape).items():
        programs[name], times[name] = build(gradient, arguments)
    for _ in range(rounds):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            times[name].step.append(time.perf_counter() - start)
    return times


def build(gradient: Gradient, arguments: tuple[Any, ...]) -> tuple[Any, Times]:
    """A compiled and warmed-up program, and what it took to trace and to compile it."""
    jax.clear_caches()
    start = time.perf_counter()
    lowered = jax.jit(gradient).lower(*arguments)
    traced = time.perf_counter()
    program = lowered.compile()
    done = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    costs: Any = program.cost_analysis()
    memory: Any = program.memory_analysis()
    took = Times(traced - start, done - traced, costs["flops"], memory.temp_size_in_bytes)
    return program, took


# ---------------------------------------------------------------------------------------------
# Reporting


def table(times: Mapping[str, Times]) -> str:
    """A Markdown table, with ratios of the step times to the hand-written model's."""
    reference = statistics.median(times["by hand"].step)
    head = ("", "trace s", "compile s", "step ms", "to by hand", "GFLOP", "working MiB")
    rows = [f"| {' | '.join(head)} |".replace("|  |", "| |"), "|---" * len(head) + "|"]
    for name, one in times.items():
        step = statistics.median(one.step)
        rows.append(
            f"| {name} | {one.trace:.2f} | {one.compile:.2f} | {1e3 * step:.1f} "
            f"| {step / reference:.2f} | {one.flops / 1e9:.1f} | {one.memory / 2**20:.0f} |"
        )
    return "\n".join(rows)


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[12, 48], help="depths to measure")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each contender")
    parser.add_argument("--remat", action="store_true", help="rematerialise every layer")
    options = parser.parse_args()
    if options.rounds < 1 or min(options.layers) < 1:
        parser.error("--rounds and --layers must be at least 1")
    jax.config.update("jax_enable_compilation_cache", False)  # or compiling costs nothing
    from scripts.bench_machine import machine

    print(machine())
    for layers in options.layers:
        for scan in (True, False):
            shape = Shape(layers=layers, scan=scan, remat=options.remat)
            print(f"\n{shape}\n")
            print(table(measure(shape, options.rounds)), flush=True)


if __name__ == "__main__":
    sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))
    main()
