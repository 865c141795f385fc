# mypy: disable-error-code="import-not-found, import-untyped"
"""The contenders of the benchmark of training: lora_jax with its settings, and PEFT.

The same model and batch for all, and a step of each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from scripts.bench_processes import seconds

Step = Callable[[], float]  # takes a step and returns its loss

RANK, ALPHA, LEARNING_RATE = 8, 16, 1e-3
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model and its batch."""

    family: str  # "gpt2" or "roberta"
    batch: int
    length: int
    layers: int = 12
    dim: int = 768
    heads: int = 12
    vocabulary: int = 50257

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.length

    @property
    def flops(self) -> float:
        """Of a step, forward and backward to the inputs: frozen weights have no gradient."""
        weights = self.layers * 12 * self.dim**2
        weights += self.dim * self.vocabulary if self.family == "gpt2" else 0
        attention = self.layers * 2 * self.length * self.dim
        return 2 * 2 * self.tokens * (weights + attention)

    def __str__(self) -> str:
        name = {"gpt2": "GPT-2", "roberta": "RoBERTa"}[self.family]
        return (
            f"{name}, {self.layers} layers of width {self.dim}, batch {self.batch} x {self.length}"
        )


SHAPES = (
    Shape("gpt2", 4, 128),
    Shape("gpt2", 8, 512),
    Shape("roberta", 16, 128, vocabulary=50265),
)
_SMALL = {"layers": 2, "dim": 32, "heads": 2, "vocabulary": 97}
QUICK_SHAPES = (Shape("gpt2", 2, 16, **_SMALL), Shape("roberta", 2, 16, **_SMALL))


@dataclasses.dataclass(frozen=True)
class Lever:
    """Settings of our step, and of the environment of its process."""

    unstacked: bool = True  # frozen layers as arrays of their own
    scan: bool = False
    chunk: int = 512  # tokens whose logits are held at once
    frozen_head: bool = True
    attention: str = "plain"
    environment: tuple[tuple[str, str], ...] = ()


_FUSIONS = "--xla_cpu_experimental_ynn_fusion_type="
LEVERS = {
    "": Lever(),
    "layers sliced from stacks": Lever(unstacked=False),
    "scan": Lever(unstacked=False, scan=True),
    "chunks of 128": Lever(chunk=128),
    "chunks of 256": Lever(chunk=256),
    "head applied again": Lever(frozen_head=False),
    "attention xla": Lever(attention="xla"),
    "attention in blocks": Lever(attention="blocks"),
    "YNN fuses elements": Lever(environment=(("XLA_FLAGS", f"{_FUSIONS}+eltwise"),)),
    "YNN no dots": Lever(environment=(("XLA_FLAGS", f"{_FUSIONS}-dot,-individual_dot"),)),
    "YNN off": Lever(environment=(("XLA_FLAGS", _FUSIONS),)),
    "in order": Lever(
        environment=(("XLA_FLAGS", "--xla_cpu_enable_concurrency_optimized_scheduler=false"),)
    ),
    "huge pages": Lever(environment=(("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),)),
}


@dataclasses.dataclass(frozen=True)
class Contender:
    """Who takes steps, in what type, whether torch compiles them, and our settings."""

    library: str  # "lora_jax" or "PEFT"
    dtype: str
    compiled: bool = False
    lever: str = ""  # a name in LEVERS

    def __str__(self) -> str:
        name = f"{self.library} {self.dtype}{', torch.compile' if self.compiled else ''}"
        return f"{name}, {self.lever}" if self.lever else name


# ---------------------------------------------------------------------------------------------
# The same model and batch for all


def save_model(shape: Shape, directory: str) -> None:
    """Writes random weights as the files of transformers, without dropout."""
    import jax

    from lora_jax import hub, models

    if shape.family == "gpt2":
        config: Any = models.GPT2Config(
            vocab_size=shape.vocabulary,
            dim=shape.dim,
            layers=shape.layers,
            heads=shape.heads,
            ff_dim=4 * shape.dim,
            bos_id=shape.vocabulary - 1,
            eos_ids=(shape.vocabulary - 1,),
        )
    else:
        config = models.BertConfig(
            model_type="roberta",
            vocab_size=shape.vocabulary,
            dim=shape.dim,
            layers=shape.layers,
            heads=shape.heads,
            ff_dim=4 * shape.dim,
            positions=514,
            types=1,
            positions_skip_padding=True,
            pad_id=1,
        )
    hub.save_model(directory, config, models.init(config, jax.random.key(0)), overwrite=True)


def make_batch(shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random tokens, classes, and the head that tells classes (RoBERTa)."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, shape.vocabulary - 5, (shape.batch, shape.length)).astype(np.int32)
    head = rng.normal(scale=0.02, size=(shape.dim, 2)).astype(np.float32)
    return ids, np.arange(shape.batch, dtype=np.int32) % 2, head


# ---------------------------------------------------------------------------------------------
# The contenders


def our_step(shape: Shape, dtype: str, directory: str, lever: Lever) -> Step:
    """A step of lora_jax, compiled."""
    import functools

    import jax

    import lora_jax as lora
    from lora_jax import hub, training
    from lora_jax.training import classifier, language_model

    options: Any = {"attention": lever.attention} if shape.family == "gpt2" else {}
    base = hub.load_model(directory, dtype=dtype, scan=lever.scan, **options)
    ids, label, head = make_batch(shape)
    method = lora.LoRA(rank=RANK, alpha=ALPHA)
    lift = functools.partial(
        lora.lift, base.apply, base.params, method=method, targets=("q_proj", "v_proj"), strict=True
    )
    ones = np.ones_like(ids)
    if shape.family == "gpt2":
        lifted = lift(ids)
        variables = language_model.init_variables(base, lifted, jax.random.key(0))
        outputs = language_model.make_outputs(
            base, lifted, lever.chunk, frozen_head=lever.frozen_head
        )
        loss: Any = functools.partial(language_model.loss, outputs)
        batch = {"ids": ids, "trained": ones, "segments": ones}
    else:
        lifted = lift(ids, ones, 0 * ids)
        variables = classifier.init_variables(base, lifted, 2, jax.random.key(0))
        variables["head"]["kernel"] = head
        loss = functools.partial(classifier.loss, classifier.make_outputs(base, lifted, "mean"))
        batch = {"ids": ids, "mask": ones, "type_ids": 0 * ids, "label": label}
    labels = training.label(variables, [("(adapter|head)/.*", "trained"), ("params/.*", None)])
    optimizer = training.make_optimizer({"learning_rate": LEARNING_RATE}, labels, 1000)
    state, frozen = training.init_state(variables, labels, optimizer, jax.random.key(1))
    if lever.unstacked:
        frozen = training.unstack(frozen)
    del variables, base, lift  # and with them the stacks
    step, batch = training.make_step(loss, optimizer), jax.device_put(batch)

    def run() -> float:
        nonlocal state
        state, metrics = step(state, frozen, batch)
        return float(metrics["loss"])

    return run


def their_step(shape: Shape, contender: Contender, directory: str) -> Step:
    """A step of PEFT on the model of transformers."""
    import peft
    import torch
    import transformers

    dtype = getattr(torch, contender.dtype)
    settings = peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=["c_attn"] if shape.family == "gpt2" else ["query", "value"],
        fan_in_fan_out=shape.family == "gpt2",
    )
    kind = {"gpt2": "AutoModelForCausalLM", "roberta": "AutoModel"}[shape.family]
    without = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    if shape.family == "roberta":
        without = dict.fromkeys(("attention_probs_dropout_prob", "hidden_dropout_prob"), 0.0)
        without["add_pooling_layer"] = False
    model = getattr(transformers, kind).from_pretrained(directory, dtype=dtype, **without)
    model = peft.get_peft_model(model, settings).train()
    ids, label, kernel = make_batch(shape)
    tokens, classes = torch.tensor(ids).long(), torch.tensor(label).long()
    head = torch.nn.Linear(shape.dim, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(kernel.T))
        head.bias.zero_()
    trained = [p for p in model.parameters() if p.requires_grad]
    trained += list(head.parameters()) if shape.family == "roberta" else []
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.01)

    def loss_of() -> Any:
        if shape.family == "gpt2":
            return model(input_ids=tokens, labels=tokens).loss
        hidden = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        return torch.nn.functional.cross_entropy(head(hidden.float().mean(dim=1)), classes)

    if contender.compiled:
        loss_of = torch.compile(loss_of)

    def run() -> float:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return float(loss.detach())

    return run


def product_limit(contender: Contender, size: int) -> float:
    """FLOP/s of a square matrix product with operands in the contender's type."""
    if contender.library == "PEFT":
        import torch

        x = torch.randn(size, size).to(getattr(torch, contender.dtype))
        multiply: Callable[[], Any] = lambda: x @ x
    else:
        import jax
        import jax.numpy as jnp

        y = jax.random.normal(jax.random.key(0), (size, size)).astype(contender.dtype)
        program = jax.jit(lambda y: jnp.matmul(y, y, preferred_element_type=jnp.float32))
        multiply = lambda: program(y).block_until_ready()
    multiply()
    return 2 * size**3 / min(seconds(multiply) for _ in range(5))
