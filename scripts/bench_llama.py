# mypy: disable-error-code="import-not-found, import-untyped"
"""A Llama with random weights, and what benchmarks do with it: steps of LoRA, and texts.

Ours and PEFT's. Nothing heavy is imported with this module: each contender brings its own library
into a process of its own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.bench_processes import Work

RANK = ALPHA = 8  # KerasHub has no alpha of its own: ΔW = A·B
LEARNING_RATE, WEIGHT_DECAY, CLIP = 1e-3, 0.01, 1.0
QUERIES_AND_VALUES = ("q_proj", "v_proj")


@dataclasses.dataclass(frozen=True)
class Llama:
    """A Llama, the batch of a training step, and the texts that it writes.

    Attributes:
        batch: rows of a step.
        length: tokens of a row.
        dim: width, a multiple of 64; heads have 64.
        layers: number of layers.
        vocabulary: number of tokens.
        rows: texts that are written at a time.
        prompt: tokens of their prompts.
        new: tokens that are written.
    """

    batch: int = 4
    length: int = 128
    dim: int = 768
    layers: int = 12
    vocabulary: int = 32000
    rows: int = 8
    prompt: int = 32
    new: int = 32

    @property
    def heads(self) -> int:
        """Of queries, and of keys and values."""
        return self.dim // 64

    @property
    def ff_dim(self) -> int:
        """Width inside the feed-forward block: 8/3 of the model's, in whole blocks of 64."""
        return 64 * -(-8 * self.dim // 192)

    @property
    def ids(self) -> np.ndarray:
        """Random tokens of a step, `[batch, length]`."""
        return self._draw(self.batch, self.length)

    @property
    def prompts(self) -> np.ndarray:
        """Random prompts, `[rows, prompt]`."""
        return self._draw(self.rows, self.prompt)

    def _draw(self, *shape: int) -> np.ndarray:
        drawn = np.random.default_rng(0).integers(5, self.vocabulary, shape)
        return drawn.astype(np.int32)

    def save(self, directory: str) -> None:
        """Writes random weights in float32 as the files of transformers."""
        import jax

        from lora_jax import hub, models

        config = models.DecoderConfig(
            vocab_size=self.vocabulary,
            dim=self.dim,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.heads,
            head_dim=64,
            ff_dim=self.ff_dim,
            eps=1e-6,
            max_length=max(self.length, self.prompt + self.new),
        )
        hub.save_model(directory, config, models.init(config, jax.random.key(0)), overwrite=True)

    def __str__(self) -> str:
        return (
            f"Llama of {self.layers} layers of width {self.dim}, feed-forward {self.ff_dim}, "
            f"{self.heads} heads, {self.vocabulary} tokens"
        )


# ---------------------------------------------------------------------------------------------
# Ours


def our_step(
    llama: Llama, directory: str, dtype: str, targets: Sequence[str], quantize: str | None = None
) -> tuple[Work, float]:
    """A training step of lora_jax, and the bytes of the frozen weights."""
    import jax

    from lora_jax import training
    from lora_jax.training import language_model

    base, lifted = _our_model(directory, dtype, targets, quantize)
    variables = language_model.init_variables(base, lifted, jax.random.key(0))
    outputs = language_model.make_outputs(base, lifted, frozen_head=True)
    loss = functools.partial(language_model.loss, outputs)
    labels = training.label(variables, [("adapter/.*", "trained"), ("params/.*", None)])
    settings: dict[str, Any] = {"learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY}
    settings |= {"schedule": "constant", "warmup": 0}
    optimizer = training.make_optimizer(settings, labels, 1000)
    state, frozen = training.init_state(variables, labels, optimizer, jax.random.key(1))
    frozen = training.unstack(frozen)
    del variables, base  # and with them the stacks
    step, ones = training.make_step(loss, optimizer), np.ones_like(llama.ids)
    batch = jax.device_put({"ids": llama.ids, "trained": ones, "segments": ones})

    def run() -> float:
        nonlocal state
        state, metrics = step(state, frozen, batch)
        return float(metrics["loss"])

    return run, float(sum(leaf.nbytes for leaf in jax.tree.leaves(frozen)))


def our_texts(
    llama: Llama, directory: str, dtype: str, targets: Sequence[str], quantize: str | None = None
) -> tuple[Work, float]:
    """Greedy texts of lora_jax with an unmerged adapter, and the bytes of the frozen weights."""
    import jax

    from lora_jax.evaluation import generate

    base, lifted = _our_model(directory, dtype, targets, quantize)
    factors = lifted.init(jax.random.key(0), base.params)
    config = dataclasses.replace(base.config, eos_ids=())  # no text ends early

    def apply(variables: Any, *args: Any, **named: Any) -> Any:
        return lifted(*variables, *args, **named)

    def run() -> float:
        made = generate(
            apply, (base.params, factors), llama.prompts, config=config, max_new_tokens=llama.new
        )
        return float(np.asarray(made.tokens).size)

    return run, float(sum(leaf.nbytes for leaf in jax.tree.leaves(base.params)))


def _our_model(directory: str, dtype: str, targets: Sequence[str], quantize: str | None) -> Any:
    """The base, its layers unrolled, and its function with an adapter."""
    import jax

    import lora_jax as lora
    from lora_jax import hub

    base = hub.load_model(directory, dtype=dtype, scan=False, quantize=quantize)
    ids = jax.ShapeDtypeStruct((1, 2), "int32")
    method = lora.LoRA(rank=RANK, alpha=ALPHA)
    lifted = lora.lift(base.apply, base.params, ids, method=method, targets=targets, strict=True)
    return base, lifted


# ---------------------------------------------------------------------------------------------
# PEFT's


def peft_step(
    llama: Llama, directory: str, dtype: str, targets: Any, quantize: str | None = None
) -> tuple[Work, float]:
    """A training step of PEFT, and the bytes of its base."""
    import torch

    model = _peft_model(directory, dtype, targets, quantize).train()
    tokens = torch.tensor(llama.ids).long()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def run() -> float:
        optimizer.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        return float(loss.detach())

    return run, _base_bytes(model)


def peft_texts(
    llama: Llama, directory: str, dtype: str, targets: Any, quantize: str | None = None
) -> tuple[Work, float]:
    """Greedy texts of PEFT with an unmerged adapter, and the bytes of its base."""
    import torch

    model = _peft_model(directory, dtype, targets, quantize).eval()
    prompts = torch.tensor(llama.prompts).long()
    fixed = {"max_new_tokens": llama.new, "min_new_tokens": llama.new, "do_sample": False}

    def run() -> float:
        with torch.inference_mode():
            mask = torch.ones_like(prompts)
            made: Any = model.generate(input_ids=prompts, attention_mask=mask, **fixed)
        return float(made[:, llama.prompt :].numel())

    return run, _base_bytes(model)


def _base_bytes(model: Any) -> float:
    """The bytes of the frozen weights, without the adapter that lies among them."""
    return float(sum(p.nbytes for name, p in model.named_parameters() if "lora_" not in name))


def _peft_model(directory: str, dtype: str, targets: Any, quantize: str | None) -> Any:
    """PEFT's LoRA on the model of transformers; bitsandbytes keeps what is quantised."""
    import peft
    import torch
    import transformers

    kept = getattr(torch, dtype)
    options: dict[str, Any] = {"dtype": kept, "eos_token_id": None, "pad_token_id": 0}
    if quantize == "int8":
        options["quantization_config"] = transformers.BitsAndBytesConfig(load_in_8bit=True)
    elif quantize == "nf4":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=kept,
        )
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, **options)
    settings = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets)
    return peft.get_peft_model(model, settings)
