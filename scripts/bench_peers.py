# mypy: disable-error-code="import-not-found, import-untyped"
"""What a training step costs beside other libraries of JAX: Tunix with Qwix, Qwix, KerasHub.

    export LORA_JAX_PEERS_PYTHON=ENV/bin/python
    python scripts/bench_peers.py --rounds 7

LoRA of rank 8 on queries and values of a Llama, AdamW with clipping, in float32 and bfloat16. The
random weights are the same in all, read from the same files, so first losses agree. The contenders:

- lora_jax, layers unrolled;
- Tunix: its Llama 3, Qwix's LoRA and the step of its `PeftTrainer`;
- Qwix: the same model and LoRA in a step by hand under `jax.jit`, as Flax's guide has it;
- KerasHub: its Llama 3 with `backbone.enable_lora`, by `train_on_batch`.

They need not be in the environment of lora_jax. One for them is made by

    python -m venv ENV
    ENV/bin/pip install google-tunix==0.1.7 qwix==0.1.8 keras==3.15.1 sentencepiece
    ENV/bin/pip install --no-deps keras-hub==0.32.0

(KerasHub's tokenizers alone need what is left out: tensorflow-text, and with it TensorFlow.) Each
contender lives in a process of its own and takes its steps by turns; medians are shown. One that is
not installed is named with the reason. Without --peers-python they are looked for in this
environment.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from scripts import bench_llama
from scripts.bench_llama import ALPHA, CLIP, LEARNING_RATE, RANK, WEIGHT_DECAY, Llama
from scripts.bench_processes import Found, Work, answer, take_turns, worker

OURS, TUNIX, QWIX, KERAS_HUB = "lora_jax", "Tunix", "Qwix", "KerasHub"
DTYPES = ("float32", "bfloat16")
PACKAGES = {
    OURS: ("jax",),
    TUNIX: ("google-tunix", "qwix", "flax", "jax"),
    QWIX: ("qwix", "flax", "jax"),
    KERAS_HUB: ("keras-hub", "keras", "jax"),
}
"""What a contender is made of."""


class Contender(NamedTuple):
    """A library and the type of its model."""

    library: str
    dtype: str

    def __str__(self) -> str:
        return " ".join(self)


# ---------------------------------------------------------------------------------------------
# The contenders


def tunix_step(llama: Llama, directory: str, dtype: str) -> Work:
    """A step of Tunix's trainer, as its loop takes it."""
    import numpy as np
    from tunix.sft import peft_trainer, utils

    ids, ones = llama.ids, np.ones(llama.ids.shape, bool)
    trainer = peft_trainer.PeftTrainer(
        _qwix_model(llama, directory, dtype),
        _optimizer(),
        peft_trainer.TrainingConfig(eval_every_n_steps=1000),
    ).with_gen_model_input_fn(
        lambda batch: {
            "input_tokens": batch.input_tokens,
            "input_mask": batch.input_mask,
            "positions": utils.build_positions_from_mask(batch.input_mask),
            "attention_mask": utils.make_causal_attn_mask(batch.input_mask),
        }
    )
    step, _ = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
    batch = peft_trainer.TrainingInput(input_tokens=ids, input_mask=ones)
    return lambda: float(step(batch)[0])


def qwix_step(llama: Llama, directory: str, dtype: str) -> Work:
    """A step by hand on the same Flax model: no more than `jax.jit` of what trains."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    graph, *states = nnx.split(_qwix_model(llama, directory, dtype), nnx.LoRAParam, ...)
    factors, rest = states
    ids = jnp.asarray(llama.ids)
    positions = jnp.broadcast_to(jnp.arange(llama.length), ids.shape)
    mask = jnp.tril(jnp.ones((llama.batch, llama.length, llama.length), bool))
    optimizer = _optimizer()

    def loss(factors: Any, rest: Any, ids: jax.Array) -> jax.Array:
        logits, _ = nnx.merge(graph, factors, rest)(ids, positions, None, mask)
        logits = logits[:, :-1].astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(factors: Any, state: Any, rest: Any, ids: jax.Array) -> Any:
        value, gradient = jax.value_and_grad(loss)(factors, rest, ids)
        changes, state = optimizer.update(gradient, state, factors)
        return optax.apply_updates(factors, changes), state, value

    state = optimizer.init(factors)

    def run() -> float:
        nonlocal factors, state
        factors, state, value = step(factors, state, rest, ids)
        return float(value)

    return run


def _qwix_model(llama: Llama, directory: str, dtype: str) -> Any:
    """Tunix's Llama 3 with the weights of the files, and Qwix's LoRA."""
    import jax.numpy as jnp
    import qwix
    from flax import nnx
    from tunix.models.llama3 import model, params

    config = model.ModelConfig(
        num_layers=llama.layers,
        vocab_size=llama.vocabulary,
        embed_dim=llama.dim,
        hidden_dim=llama.ff_dim,
        num_heads=llama.heads,
        head_dim=64,
        num_kv_heads=llama.heads,
        rope_theta=10_000,
        norm_eps=1e-6,
    )
    base = params.create_model_from_safe_tensors(directory, config, dtype=jnp.dtype(dtype))
    lora = qwix.LoraProvider(module_path=".*(q_proj|v_proj)", rank=RANK, alpha=ALPHA)
    return qwix.apply_lora_to_model(base, lora, rngs=nnx.Rngs(0), **base.get_model_input())


def keras_hub_step(llama: Llama, directory: str, dtype: str) -> Work:
    """A step of Keras on its JAX backend."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras
    import keras_hub

    backbone = keras_hub.models.Llama3Backbone.from_preset(directory, dtype=dtype)
    backbone.enable_lora(RANK)
    # The last place predicts nothing.
    logits = backbone.token_embedding(backbone.output[:, :-1], reverse=True)
    model = keras.Model(backbone.input, logits)
    model.compile(
        optimizer=keras.optimizers.AdamW(
            LEARNING_RATE, weight_decay=WEIGHT_DECAY, global_clipnorm=CLIP
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
    )
    ids = llama.ids
    inputs = {"token_ids": ids, "padding_mask": ids > 0}
    return lambda: float(model.train_on_batch(inputs, ids[:, 1:]))


def _optimizer() -> Any:
    import optax

    adamw = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    return optax.chain(optax.clip_by_global_norm(CLIP), adamw)


THEIRS: dict[str, Callable[[Llama, str, str], Work]] = {
    TUNIX: tunix_step,
    QWIX: qwix_step,
    KERAS_HUB: keras_hub_step,
}


# ---------------------------------------------------------------------------------------------
# Measuring


def work(contender: list[str], llama: dict[str, int], directory: str, cores: int) -> None:
    """Takes steps whenever it is asked to; what the process of a contender does."""
    library, dtype = contender

    def make() -> tuple[Work, float]:
        import jax

        jax.config.update("jax_enable_compilation_cache", False)  # or compiling costs nothing
        if library == OURS:
            targets = bench_llama.QUERIES_AND_VALUES
            return bench_llama.our_step(Llama(**llama), directory, dtype, targets)
        return THEIRS[library](Llama(**llama), directory, dtype), 0.0

    answer(make, cores)


def measure(
    contenders: list[Contender],
    llama: Llama,
    rounds: int,
    cores: int,
    peers_python: str = sys.executable,
) -> tuple[dict[Contender, Found], dict[Contender, str]]:
    """Lets contenders take turns; also tells why some could not."""
    with tempfile.TemporaryDirectory() as directory:
        llama.save(directory)
        commands = {}
        for one in contenders:
            task: dict[str, Any] = {"contender": one, "llama": dataclasses.asdict(llama)}
            task |= {"directory": directory, "cores": cores}
            python = sys.executable if one.library == OURS else peers_python
            commands[one] = worker(__file__, task, python)
        return take_turns(commands, rounds)


# ---------------------------------------------------------------------------------------------
# Reporting

HEADER = """\
| | tokens/s | lora_jax's to it | peak GB | to lora_jax's | compile s | to lora_jax's | first loss |
|---|---|---|---|---|---|---|---|"""


def table(found: Mapping[Contender, Found], tokens: int) -> str:
    """A Markdown table; each is compared with lora_jax in the same type."""
    median = {one: statistics.median(of.seconds) for one, of in found.items()}
    rows = [HEADER]
    for one, of in found.items():
        cells = [str(one), f"{tokens / median[one]:.0f}"]
        ours = Contender(OURS, one.dtype)
        own = found.get(ours)
        cells += [f"{median[one] / median[ours]:.2f}" if own else ""]
        cells += [f"{of.peak / 1e9:.2f}", f"{of.peak / own.peak:.2f}" if own else ""]
        cells += [f"{of.compile:.1f}", f"{of.compile / own.compile:.2f}" if own else ""]
        rows.append(f"| {' | '.join([*cells, f'{of.loss:.6f}'])} |")
    return "\n".join(rows)


_VERSIONS = """
import importlib.metadata, sys
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in sys.argv[1:]))
"""


def installed(python: str, library: str) -> str:
    """The versions of a contender's packages in an environment, or what is missing."""
    done = subprocess.run(
        [python, "-c", _VERSIONS, *PACKAGES[library]], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or done.stderr.strip().rpartition("\n")[2]


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peers = os.environ.get("LORA_JAX_PEERS_PYTHON", sys.executable)
    parser.add_argument("--peers-python", default=peers, help="the others' Python")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each contender")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU cores for each")
    parser.add_argument("--only", nargs="+", choices=[OURS, *THEIRS], default=[OURS, *THEIRS])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    for name in ("batch", "length", "dim", "layers", "vocabulary"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Llama, name))
    options = parser.parse_args()
    if options.worker:
        work(**json.loads(options.worker))
        return
    sizes = {n: getattr(options, n) for n in ("batch", "length", "dim", "layers", "vocabulary")}
    if min(options.rounds, options.threads, *sizes.values()) < 1 or options.dim % 64:
        parser.error("every number must be at least 1, and --dim a multiple of 64")
    from scripts.bench_machine import machine

    llama = Llama(**sizes)
    contenders = [Contender(library, dtype) for dtype in DTYPES for library in options.only]
    python = {name: sys.executable if name == OURS else options.peers_python for name in PACKAGES}
    found, failed = measure(contenders, llama, options.rounds, options.threads, python[TUNIX])
    print(f"{machine()}; {options.threads} threads each.\n")
    print("\n".join(f"- {name}: {installed(python[name], name)}" for name in options.only))
    print(f"\n{llama}; batch {llama.batch} x {llama.length}; rank {RANK} on queries and values.")
    print(f"\n{table(found, llama.batch * llama.length)}")
    for one, why in failed.items():
        print(f"\nNot measured: {one} ({why}).")


if __name__ == "__main__":
    main()
