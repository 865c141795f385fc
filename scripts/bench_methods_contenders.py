# mypy: disable-error-code="import-not-found, import-untyped"
"""The contenders of the benchmark of methods: each method of ours, and PEFT's of the same kind."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import lora_jax as lora
from lora_jax import models

Step = Callable[[], Any]

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NORMS = ("input_layernorm", "post_attention_layernorm", "norm")
TOKENS = tuple(range(16))


class Contender(NamedTuple):
    """A method, and PEFT's configuration of the same.

    Args:
        targets: of ours.
        kind: the class of PEFT's configuration; None where PEFT has no such method.
        fields: of that configuration.
        frozen: what stands in the names of PEFT's parameters that the method freezes.
    """

    targets: Any
    kind: str | None = None
    fields: Mapping[str, Any] = {}
    frozen: str | None = None


def on_linear(method: Any, kind: str | None, frozen: str | None = None, **fields: Any) -> Contender:
    """A method on all seven projections of every block."""
    fields = {"target_modules": list(LINEAR)} | fields
    return Contender(dict.fromkeys(LINEAR, method), kind, fields, frozen)


METHODS: dict[str, Contender] = {
    "LoRA": on_linear(lora.LoRA(rank=8), "LoraConfig", r=8),
    "DoRA": on_linear(lora.DoRA(rank=8), "LoraConfig", r=8, use_dora=True),
    "PiSSA": on_linear(lora.PiSSA(rank=8), "LoraConfig", r=8, init_lora_weights="pissa_niter_4"),
    "LoRA-FA": on_linear(lora.LoRAFA(rank=8), "LoraConfig", frozen="lora_A", r=8),
    "VeRA": on_linear(lora.VeRA(rank=256), "VeraConfig", r=256),
    "IA3": on_linear(lora.IA3(), "IA3Config", feedforward_modules=[]),
    "LoHa": on_linear(lora.LoHa(rank=8), "LoHaConfig", r=8),
    "LoKr": on_linear(lora.LoKr(rank=8), "LoKrConfig", r=8),
    "AdaLoRA": on_linear(lora.AdaLoRA(rank=8), "AdaLoraConfig", init_r=8, total_step=1000),
    "MiSS": on_linear(lora.MiSS(rank=16), "MissConfig", r=16),
    "HiRA": on_linear(lora.HiRA(rank=8), "HiraConfig", r=8),
    "GraLoRA": on_linear(lora.GraLoRA(rank=8), "GraloraConfig", r=8, alpha=64),
    "Full": on_linear(lora.Full(), None),
    "BitFit": Contender(
        {lora.BIASES: lora.BitFit()}, "BeftConfig", {"target_modules": list(LINEAR)}
    ),
    "layer norms": Contender(
        {lora.NORMS: lora.LayerNormTuning()}, "LNTuningConfig", {"target_modules": list(NORMS)}
    ),
    "token rows": Contender(
        {"embed": lora.TokenRows(ids=TOKENS)},
        "TrainableTokensConfig",
        {"target_modules": ["embed_tokens"], "token_indices": list(TOKENS)},
    ),
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of the model and of its batch."""

    dim: int = 512
    layers: int = 4
    vocabulary: int = 1024
    batch: int = 4
    length: int = 128
    scan: bool = False

    @property
    def heads(self) -> int:
        """Heads of 64 entries, one at least."""
        return max(self.dim // 64, 1)

    def __str__(self) -> str:
        how = "scanned" if self.scan else "unrolled"
        return (
            f"{self.layers} layers, {how} in ours; width {self.dim}, gated perceptron "
            f"{4 * self.dim}, {self.heads} heads, vocabulary {self.vocabulary}, batch "
            f"{self.batch} x {self.length}, float32"
        )


# ---------------------------------------------------------------------------------------------
# The contenders


def make_step(name: str, shape: Shape) -> tuple[Step, int | None]:
    """A compiled and warmed-up gradient of a method's factors, and its temporary bytes."""
    params, ids = _base(shape)
    model = models.build(_config(shape)).apply
    lifted = lora.lift(model, params, ids, targets=METHODS[name].targets)
    factors = lifted.init(jax.random.key(2), params)
    frozen = {site.path: site.frozen for site in lifted.sites}
    trained = {
        path: {k: v for k, v in arrays.items() if k not in frozen[path]}
        for path, arrays in factors.items()
    }

    base = params if shape.scan else models.unstack(params)  # as a step on a CPU takes it

    def loss(trained: Any, factors: Any, base: Any, ids: jax.Array) -> jax.Array:
        params = models.restack(base)
        whole = {path: arrays | trained[path] for path, arrays in factors.items()}
        logits = jax.nn.log_softmax(lifted(params, whole, ids)[:, :-1])
        return -jnp.take_along_axis(logits, ids[:, 1:, None], axis=-1).mean()

    program = jax.jit(jax.grad(loss)).lower(trained, factors, base, ids).compile()
    analysis = program.memory_analysis()
    temporary = None if analysis is None else int(analysis.temp_size_in_bytes)
    step = lambda: jax.block_until_ready(program(trained, factors, base, ids))
    step()
    return step, temporary


@functools.cache
def _base(shape: Shape) -> tuple[Any, jax.Array]:
    size = (shape.batch, shape.length)
    ids = jax.random.randint(jax.random.key(1), size, 0, shape.vocabulary)
    return models.init(_config(shape), jax.random.key(0)), ids


def _config(shape: Shape) -> models.DecoderConfig:
    return models.DecoderConfig(
        vocab_size=shape.vocabulary,
        dim=shape.dim,
        ff_dim=4 * shape.dim,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.heads,
        head_dim=shape.dim // shape.heads,
        max_length=shape.length,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        scan=shape.scan,
    )


def make_peft_model(name: str, shape: Shape) -> Any:
    """PEFT's method on a Llama of the same sizes."""
    import peft
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.dim,
        intermediate_size=4 * shape.dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.length,
        attention_bias=True,
        mlp_bias=True,
    )
    contender = METHODS[name]
    settings = getattr(peft, str(contender.kind))(**contender.fields)
    model = peft.get_peft_model(transformers.LlamaForCausalLM(config), settings)
    for path, parameter in model.named_parameters():
        if contender.frozen is not None and contender.frozen in path:
            parameter.requires_grad_(False)
    return model.train()


def make_peft_step(name: str, shape: Shape) -> Step:
    """A warmed-up forward and backward pass of PEFT's method."""
    import torch

    model = make_peft_model(name, shape)
    ids = torch.randint(0, shape.vocabulary, (shape.batch, shape.length))

    def step() -> None:
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()

    step()
    return step


def has_peft() -> bool:
    """Whether PEFT's side can run."""
    return all(importlib.util.find_spec(name) for name in ("torch", "peft", "transformers"))
