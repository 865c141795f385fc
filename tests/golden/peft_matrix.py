"""Every method of PEFT on every family of models: what it computes, learns and merges.

A case trains PEFT's own tensors on both sides. How they become our factors is not written down
here a second time: an adapter is saved in which every number says where it stands, and the library
reads that file. So a weight that PEFT adapts whole and we in parts (GPT-2's `c_attn`) keeps the one
A that it has there, and gradients and parameters are compared tensor by tensor in PEFT's names.

`record` needs torch, transformers and peft; nothing else here does.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from golden.all import CASES
from golden.case import QUICK, error
from safetensors.numpy import load_file, save_file

from lora_jax import hub
from lora_jax.lifting import path_name
from lora_jax.methods import Full, LoRAFA, TokenRows, project_gradients

FIXTURES = Path(__file__).parent.parent / "fixtures"
STEPS = (1, 10, 100)
# With a smaller ε, entries whose gradient is rounding alone would step like all others.
WEIGHT_DECAY, EPSILON = 0.1, 1e-4

Arrays = dict[str, np.ndarray]


# ---------------------------------------------------------------------------------------------
# The two sides of the matrix


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Where methods go on a family, as regular expressions of names of modules.

    Attributes:
        model: name of the recorded model.
        attention: two projections, or the fused one that holds them.
        fed: layers whose inputs IA³ scales.
        embedding: the table of tokens, one end of a name.
        norms: normalisations, as ends of names.
        whole: modules to be saved whole, as ends of names.
        tied: whether the embedding is the output head too.
        convolution: of patches.
        biased: whether the model has biases.
    """

    model: str
    attention: str
    fed: str
    norms: tuple[str, ...]
    whole: tuple[str, ...]
    embedding: str = ""
    tied: bool = False
    convolution: str = ""
    biased: bool = False


def encoder(model: str, attention: str, **fields: Any) -> Family:
    return Family(
        model=model,
        attention=rf".*attention\.self\.({attention})",
        fed=r".*layer\.\d+\.output\.dense",
        embedding="word_embeddings",
        norms=("LayerNorm",),
        whole=("classifier",),
        biased=True,
        **fields,
    )


def decoder(model: str, **fields: Any) -> Family:
    known: dict[str, Any] = {
        "attention": r".*self_attn\.(q_proj|v_proj)",
        "fed": r".*mlp\.down_proj",
        "embedding": "embed_tokens",
        "norms": ("input_layernorm", "model.norm"),
        "whole": ("lm_head",),
    }
    return Family(model=model, **known | fields)


def two_towers(model: str, **fields: Any) -> Family:
    return Family(
        model=model,
        attention=r".*self_attn\.(q_proj|v_proj)",
        fed=r".*mlp\.fc2",
        embedding="token_embedding",
        norms=("layer_norm1", "layer_norm2"),
        convolution="patch_embedding",
        biased=True,
        **fields,
    )


FAMILIES: dict[str, Family] = {
    "bert": encoder("bert_classification", "query|value"),
    "roberta": encoder("roberta_classification", "query|value"),
    "deberta": encoder("deberta_classification", "query_proj|value_proj"),
    "gpt2": Family(
        model="gpt2",
        attention=r".*attn\.c_attn",
        fed=r".*mlp\.c_proj",
        embedding="wte",
        norms=("ln_1", "ln_f"),
        whole=("wpe",),
        tied=True,
        biased=True,
    ),
    "llama": decoder("llama"),
    "mistral": decoder("mistral"),
    "qwen2": decoder("qwen2", biased=True),
    "qwen3": decoder("qwen3"),
    "gemma2": decoder("gemma2", whole=("embed_tokens",), tied=True),
    "gemma3": decoder("gemma3", whole=("embed_tokens",), tied=True),
    "mixtral": decoder("mixtral", fed=r".*self_attn\.o_proj"),
    "qwen3_moe": decoder("qwen3_moe", fed=r".*self_attn\.o_proj"),
    "t5": Family(
        model="t5_even",
        attention=r".*(SelfAttention|EncDecAttention)\.(q|v)",
        fed=r".*DenseReluDense\.wo",
        norms=("layer_norm",),
        whole=("relative_attention_bias",),
    ),
    "vit": Family(
        model="vit_classification",
        attention=r".*attention\.(q_proj|v_proj)",
        fed=r".*mlp\.fc2",
        norms=("layernorm_before", "layernorm_after"),
        whole=("classifier",),
        convolution="projection",
        biased=True,
    ),
    "clip": two_towers("clip", whole=("visual_projection",)),
    "siglip": two_towers("siglip", whole=("text_model.head",)),
    "llava": decoder(
        "llava",
        whole=("linear_2",),
        norms=("layer_norm1", "input_layernorm"),
        convolution="patch_embedding",
        biased=True,
    ),
    "qwen2_5_vl": decoder(
        "qwen2_5_vl",
        attention=r".*(self_attn\.(q_proj|v_proj)|attn\.qkv)",
        norms=("norm1", "input_layernorm"),
        convolution="patch_embed.proj",
        biased=True,
    ),
}

Settings = Mapping[str, Any]
LORA = {"r": 3, "lora_alpha": 5}
TOKENS = [7, 11, 30]


def on(modules: Callable[[Family], Any], kind: str, **fields: Any) -> Callable[[Family], Settings]:
    return lambda family: {"kind": kind, "target_modules": modules(family), **fields}


def attention(kind: str, **fields: Any) -> Callable[[Family], Settings]:
    return on(lambda family: family.attention, kind, **fields)


def _ia3(family: Family) -> Settings:
    both = f"({family.attention})|({family.fed})"
    return {"kind": "IA3Config", "target_modules": both, "feedforward_modules": family.fed}


def _whole(family: Family) -> Settings:
    tied = {"ensure_weight_tying": True} if family.tied and "embed" in family.whole[0] else {}
    return attention("LoraConfig", **LORA, modules_to_save=list(family.whole), **tied)(family)


def _token_rows(family: Family) -> Settings:
    rows = {family.embedding: TOKENS}
    return attention("LoraConfig", **LORA, trainable_token_indices=rows)(family)


# A rank and an alpha for the first layer of its own.
_PATTERNS = {
    "rank_pattern": {r".*\.0\..*": 2},
    "alpha_pattern": {r".*\.1\..*": 9},
}
METHODS: dict[str, Callable[[Family], Settings]] = {
    "lora": attention("LoraConfig", **LORA),
    "patterns": attention("LoraConfig", **LORA, **_PATTERNS),
    "rslora": attention("LoraConfig", **LORA, use_rslora=True),
    "dora": attention("LoraConfig", **LORA, use_dora=True),
    "lora_fa": attention("LoraConfig", **LORA),
    "vera": attention("VeraConfig", r=8),
    "ia3": _ia3,
    "loha": attention("LoHaConfig", r=2, alpha=3),
    "lokr": attention("LoKrConfig", r=1, alpha=2),
    "adalora": attention("AdaLoraConfig", init_r=3, lora_alpha=5, total_step=100),
    "miss": attention("MissConfig", r=5),
    "hira": attention("HiraConfig", r=3),
    "gralora": attention("GraloraConfig", r=4, alpha=6, gralora_k=2, hybrid_r=2),
    "norms": on(lambda family: list(family.norms), "LNTuningConfig"),
    "biases": attention("LoraConfig", **LORA, bias="all"),
    "whole": _whole,
    "token_rows": _token_rows,
    "embedding": on(lambda f: [f.embedding], "LoraConfig", **LORA),
    "embedding_dora": on(lambda f: [f.embedding], "LoraConfig", **LORA, use_dora=True),
    "convolution": on(lambda f: [f.convolution], "LoraConfig", **LORA),
    "convolution_dora": on(lambda f: [f.convolution], "LoraConfig", **LORA, use_dora=True),
    "convolution_loha": on(lambda f: [f.convolution], "LoHaConfig", r=2, alpha=3),
    "convolution_lokr": on(lambda f: [f.convolution], "LoKrConfig", r=1, alpha=2),
    "convolution_hira": on(lambda f: [f.convolution], "HiraConfig", r=3),
    "convolution_ia3": on(lambda f: [f.convolution], "IA3Config", feedforward_modules=[]),
    "convolution_adalora": on(
        lambda f: [f.convolution], "AdaLoraConfig", init_r=3, lora_alpha=5, total_step=100
    ),
    "embedding_hira": on(lambda f: [f.embedding], "HiraConfig", r=3),
    "experts": attention(
        "LoraConfig",
        **LORA,
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    ),
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """A method on a family."""

    family: str
    method: str

    def __str__(self) -> str:
        return f"{self.family}-{self.method}"

    @property
    def model(self) -> str:
        return FAMILIES[self.family].model

    @property
    def learning_rate(self) -> float:
        """Of AdamW; T5's biases of positions are so large that at 1e-3 rounding grows too fast."""
        return 1e-4 if (self.family, self.method) == ("t5", "whole") else 1e-3

    @property
    def settings(self) -> Settings:
        return METHODS[self.method](FAMILIES[self.family])

    @property
    def exists(self) -> bool:
        """Whether the family has what the method is for."""
        family, kind = FAMILIES[self.family], self.method.partition("_")[0]
        has = {
            "biases": family.biased,
            "token": family.embedding,
            # PEFT adapts the table alone, or has two parameters of one storage, which step twice.
            "embedding": family.embedding and not family.tied,
            "convolution": family.convolution,
            "experts": self.family in ("mixtral", "qwen3_moe"),
        }
        return bool(has.get(kind, True))


PAIRS = [pair for f in FAMILIES for m in METHODS if (pair := Pair(f, m)).exists]

# Those that are recorded: each family and each method at least once.
_RECORDED = {
    "bert": "lora biases norms",
    "roberta": "whole vera",
    "deberta": "dora adalora",
    "gpt2": "dora ia3 vera gralora token_rows",
    "llama": "lora_fa embedding_dora",
    "mistral": "loha gralora",
    "qwen2": "lokr hira",
    "qwen3": "rslora miss",
    "gemma2": "whole",
    "gemma3": "patterns",
    "mixtral": "experts",
    "qwen3_moe": "vera",
    "t5": "ia3",
    "vit": "convolution convolution_dora convolution_loha convolution_lokr convolution_hira "
    "convolution_ia3 convolution_adalora",
    "clip": "embedding embedding_hira",
    "siglip": "biases",
    "llava": "token_rows",
    "qwen2_5_vl": "dora lokr",
}
RECORDED = [Pair(family, method) for family, ms in _RECORDED.items() for method in ms.split()]


def read(pair: Pair) -> Arrays:
    """What was recorded of a pair."""
    with np.load(FIXTURES / "peft_matrix" / f"{pair}.npz") as file:
        return dict(file)


def write(pair: Pair, recorded: Mapping[str, np.ndarray]) -> None:
    """Saves what was recorded of a pair."""
    path = FIXTURES / "peft_matrix" / f"{pair}.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **recorded)


# ---------------------------------------------------------------------------------------------
# What PEFT does


def record(pair: Pair) -> Arrays:
    """The adapter's files with places for numbers, and what PEFT computes, learns and merges.

    Raises:
        Exception: whatever PEFT raises where it does not have the method for a module.
    """
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    golden = CASES[pair.model]
    base, tensors, probe = _base(pair.model)
    model = adapt(pair.model, pair.settings)
    run = lambda model: getattr(model(**tensors), golden.output)
    with torch.no_grad():
        plain, started = run(base), run(model)
    optimizer = _optimizer(model, pair)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    fixed = _fixed(model)
    result = {"identity": (started - plain).abs().max().numpy()}
    result |= {f"initial:{name}": _copy(t) for name, t in (trained | fixed).items()}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    result |= {f"start:{name}": _copy(t) for name, t in (trained | fixed).items()}
    result |= _places(model, trained | fixed)
    weight = torch.tensor(_weight(probe))
    for step in range(1, STEPS[-1] + 1):
        output = run(model)
        loss = (weight * (output - torch.tensor(probe)) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        for parameter in trained.values():
            if parameter.grad is None:  # torch would not even let it decay
                parameter.grad = torch.zeros_like(parameter)
        if step == 1:
            result["output"] = _copy(output)
            result |= {f"gradient:{name}": _copy(p.grad) for name, p in trained.items()}
            result |= _merged(model, pair)
        with _in_full_precision():
            optimizer.step()
        if step in STEPS:
            result |= {f"after {step}:{name}": _copy(p) for name, p in trained.items()}
    return result


def adapt(name: str, settings: Settings) -> Any:
    """A model of PEFT's at its start.

    Raises:
        Exception: whatever PEFT raises where it does not have the method for a module.
    """
    import peft

    fields = dict(settings)
    config = getattr(peft, fields.pop("kind"))(**fields)
    return peft.get_peft_model(copy.deepcopy(_base(name)[0]), config).eval()


@functools.cache
def _base(name: str) -> tuple[Any, dict[str, Any], np.ndarray]:
    """A model of transformers, its inputs, and random numbers that its outputs are drawn to."""
    import torch
    import transformers

    source = FIXTURES / name
    cls = json.loads((source / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, cls).from_pretrained(source, attn_implementation="eager").eval()
    inputs = dict(np.load(source / "expected.npz"))
    names = [key for key in inputs if key not in ("expected", "probe") and ":" not in key]
    tensors = {key: torch.tensor(inputs[key]) for key in names}
    tensors = {k: t.long() if t.dtype == torch.int32 else t for k, t in tensors.items()}
    return model, tensors, inputs["probe"]


def _weight(probe: np.ndarray) -> np.ndarray:
    """What each entry of the output counts in the loss: positions that are padding do not."""
    real = (probe != 0).astype(np.float32)
    return real / real.sum()


def _optimizer(model: Any, pair: Pair) -> Any:
    import torch
    from peft.optimizers import create_lorafa_optimizer

    if pair.method == "lora_fa":
        optimizer = create_lorafa_optimizer(
            model, r=LORA["r"], lora_alpha=LORA["lora_alpha"], lr=pair.learning_rate
        )
        optimizer.param_groups[0]["eps"] = EPSILON
        return optimizer
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=pair.learning_rate, weight_decay=WEIGHT_DECAY, eps=EPSILON)


def _fixed(model: Any) -> dict[str, Any]:
    """What an adapter holds and never trains: VeRA's projections, LoRA-FA's A."""
    named = {name: b for name, b in model.named_buffers() if "vera_" in name}
    frozen = {name: p for name, p in model.named_parameters() if "lora_" in name}
    seen = {id(tensor): name for name, tensor in reversed(named.items())}
    unique = {name: tensor for name, tensor in named.items() if seen[id(tensor)] == name}
    return unique | {name: p for name, p in frozen.items() if not p.requires_grad}


def _copy(tensor: Any) -> np.ndarray:
    return tensor.detach().numpy().copy()


def _places(model: Any, tensors: Mapping[str, Any]) -> Arrays:
    """The files of the adapter in which every number is its place in the joined tensors, from 1."""
    import torch

    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    with tempfile.TemporaryDirectory() as room, torch.no_grad():
        first = 1
        for tensor in tensors.values():
            places = torch.arange(first, first + tensor.numel()).float()
            tensor.copy_(places.reshape(tensor.shape))
            first += tensor.numel()
        model.save_pretrained(room, save_embedding_layers=False)
        for name, tensor in tensors.items():
            tensor.copy_(before[name])
        fields = json.loads((Path(room) / "adapter_config.json").read_text())
        file = load_file(Path(room) / "adapter_model.safetensors")
    fields["base_model_name_or_path"] = None
    found = {f"file:{key}": places for key, places in file.items()}
    return found | {"config": np.array(json.dumps(fields))}


def _merged(model: Any, pair: Pair) -> Arrays:
    """The weights of the merged model that differ from the base's, in our names."""
    merged = copy.deepcopy(model).merge_and_unload()
    with tempfile.TemporaryDirectory() as room:
        merged.save_pretrained(room)
        found = hub.load_model(room, **CASES[pair.model].options).params
    before = by_path(_model(pair.model).params)
    return {
        f"merged:{path}": leaf
        for path, leaf in by_path(found).items()
        if not np.array_equal(leaf, before[path])
    }


@contextlib.contextmanager
def _in_full_precision() -> Iterator[None]:
    """Lets LoRA-FA of PEFT multiply in fp32, where it would take bf16."""
    from peft.optimizers import lorafa

    before = lorafa.is_bf16_available
    lorafa.is_bf16_available = lambda *args: False
    try:
        yield
    finally:
        lorafa.is_bf16_available = before


# ---------------------------------------------------------------------------------------------
# The same in our library


@functools.cache
def _model(name: str) -> hub.Pretrained:
    return hub.load_model(FIXTURES / name, **CASES[name].options)


def by_path(params: Any) -> Arrays:
    leaves = jax.tree.leaves_with_path(params)
    return {path_name(path): np.asarray(leaf) for path, leaf in leaves}


def check(pair: Pair, recorded: Mapping[str, np.ndarray], room: Path) -> None:
    """Checks that what our library computes, learns and merges is what PEFT does."""
    found = compute(pair, recorded, room)
    real = np.load(FIXTURES / pair.model / "expected.npz")["probe"] != 0
    assert recorded["identity"] < 1e-4
    start = found["start"]
    for path, leaf in by_path(_model(pair.model).params).items():
        assert np.abs(start[path] - leaf).max() <= 1e-6 * np.abs(leaf).max(), path
    assert error(found["output"][real], recorded["output"][real]) < 1e-5
    # The gradient of a key's bias, for one, is rounding alone: a softmax does not see it.
    _check_close(found["gradient"], recorded, "gradient", floor=1e-5)
    for step in STEPS:
        _check_close(found[f"after {step}"], recorded, f"after {step}")
    for path, leaf in found["merged"].items():
        wanted = recorded.get(f"merged:{path}", start[path])
        assert np.abs(leaf - wanted).max() <= 1e-6 * np.abs(wanted).max(), path
    assert any(key.startswith("merged:") for key in recorded)


def _check_close(
    found: Arrays, recorded: Mapping[str, np.ndarray], stage: str, floor: float = 0.0
) -> None:
    """Checks the relative error of each tensor, beyond a floor that is relative to the largest."""
    norm = lambda x: np.linalg.norm(np.asarray(x, np.float64))
    least = floor * max(norm(recorded[f"{stage}:{name}"]) for name in found)
    for name, array in found.items():
        wanted = recorded[f"{stage}:{name}"]
        distance = norm(array - wanted)
        assert distance <= 1e-4 * norm(wanted) + least, (stage, name, distance, norm(wanted))


def compute(pair: Pair, recorded: Mapping[str, np.ndarray], room: Path) -> dict[str, Any]:
    """Outputs, gradients and parameters after some steps in PEFT's names, and merged weights."""
    names = [key.partition(":")[2] for key in recorded if key.startswith("start:")]
    trained = [name for name in names if f"gradient:{name}" in recorded]
    assert names[: len(trained)] == trained
    sizes = [recorded[f"start:{name}"].size for name in names]
    join = lambda stage: np.concatenate([recorded[f"{stage}:{name}"].ravel() for name in names])
    split = lambda values: {
        name: part.reshape(recorded[f"start:{name}"].shape)
        for name, part in zip(
            trained, np.split(np.asarray(values), np.cumsum(sizes)[: len(trained) - 1]), strict=True
        )
    }
    model, lifted, factors = lift(pair, recorded, room)
    places = jax.tree.map(lambda x: np.asarray(x).astype(np.int32), factors)
    if pair.method == "lora_fa":
        lifted = _with_fixed_a(lifted)
    args, named = _arguments(pair)
    probe = np.load(FIXTURES / pair.model / "expected.npz")["probe"]
    train = _make_train(pair, lifted, places, probe, sum(sizes[: len(trained)]))
    run = jax.jit(train, compiler_options=QUICK)
    output, gradient, steps, merged, start = run(
        model.params, join("start"), join("initial"), args, named
    )
    return {
        "output": np.asarray(output),
        "gradient": split(gradient),
        **{f"after {n}": split(values) for n, values in zip(STEPS, steps, strict=True)},
        "merged": by_path(merged),
        "start": by_path(start),
    }


def _arguments(pair: Pair) -> tuple[list[np.ndarray], dict[str, Any]]:
    golden, model = CASES[pair.model], _model(pair.model)
    inputs = dict(np.load(FIXTURES / pair.model / "expected.npz"))
    args = [inputs[name] for name in golden.arguments]
    return args, golden.keywords(model.config, inputs)


def lift(
    pair: Pair, recorded: Mapping[str, np.ndarray], room: Path
) -> tuple[hub.Pretrained, Any, Any]:
    """Our model, its lift as the adapter's files ask for, and its factors on a base of zeros."""
    model, golden = _model(pair.model), CASES[pair.model]
    save_file({k: np.ascontiguousarray(t) for k, t in files(recorded).items()}, _weights(room))
    (room / "adapter_config.json").write_text(str(recorded["config"]))
    args, named = _arguments(pair)
    zeros = jax.tree.map(jnp.zeros_like, model.params)
    lifted, factors = hub.lift_peft(room, model.apply, zeros, *args, **named, **golden.settings)
    return model, lifted, factors


def _with_fixed_a(lifted: Any) -> Any:
    fixed = lambda method: LoRAFA(rank=method.rank, alpha=method.alpha)
    sites = [dataclasses.replace(site, method=fixed(site.method)) for site in lifted.sites]
    return dataclasses.replace(lifted, sites=tuple(sites))


def files(recorded: Mapping[str, np.ndarray]) -> Arrays:
    """The tensors of the adapter's file."""
    return {key.partition(":")[2]: t for key, t in recorded.items() if key.startswith("file:")}


def _weights(room: Path) -> Path:
    return room / "adapter_model.safetensors"


def _make_train(pair: Pair, lifted: Any, places: Any, probe: np.ndarray, count: int) -> Any:
    """Makes the function that trains the first `count` of PEFT's numbers, laid end to end."""
    added = {s.path for s in lifted.sites if isinstance(s.method, Full | TokenRows)}
    rows = {s.path: list(s.method.ids) for s in lifted.sites if isinstance(s.method, TokenRows)}
    settings, weight = CASES[pair.model].settings, _weight(probe)
    fa = pair.method == "lora_fa"
    optimizer = (
        _adam_of_uncorrected_moments(pair.learning_rate)
        if fa
        else optax.adamw(pair.learning_rate, weight_decay=WEIGHT_DECAY, eps=EPSILON)
    )

    def factors_of(values: Any, base: Any) -> Any:
        """Our factors; where PEFT trains W itself, less W."""
        values = jnp.concatenate([jnp.zeros(1), values])
        factors = jax.tree.map(lambda place: values[place], places)
        for path in added:
            weight = _at(base, path)
            weight = weight[jnp.array(rows[path])] if path in rows else weight
            factors[path] = {name: array - weight for name, array in factors[path].items()}
        return factors

    def train(base: Any, start: Any, initial: Any, args: Any, named: Any) -> Any:
        fixed = start[count:]

        def loss(factors: Any) -> Any:
            output = lifted(base, factors, *args, **named, **settings)
            return (weight * (output - probe) ** 2).sum(), output

        def gradient_of(trained: Any) -> Any:
            factors, back = jax.vjp(
                lambda t: factors_of(jnp.concatenate([t, fixed]), base), trained
            )
            gradients, output = jax.grad(loss, has_aux=True)(factors)
            projected = project_gradients(lifted, factors, gradients) if fa else gradients
            return back(gradients)[0], back(projected)[0], output

        def step(carry: Any, _: None) -> Any:
            trained, state = carry
            gradient, projected, output = gradient_of(trained)
            updates, state = optimizer.update(projected, state, trained)
            trained = optax.apply_updates(trained, updates)
            return (trained, state), (output, gradient, trained)

        first = start[:count], optimizer.init(start[:count])
        _, (outputs, gradients, steps) = jax.lax.scan(step, first, length=STEPS[-1])
        merge = lambda values: lifted.merge(base, factors_of(values, base))
        return (
            outputs[0],
            gradients[0],
            steps[jnp.array(STEPS) - 1],
            merge(start),
            merge(initial),
        )

    return train


def _adam_of_uncorrected_moments(learning_rate: float) -> optax.GradientTransformation:
    """Adam as in PEFT's LoRA-FA: ε is added before the moments are corrected for their start."""

    def update(gradient: Any, state: Any, _: Any) -> Any:
        count, mean, square = state
        count = count + 1
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        rate = learning_rate * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        return -rate * mean / (jnp.sqrt(square) + EPSILON), (count, mean, square)

    start = lambda values: (jnp.zeros(()), jnp.zeros_like(values), jnp.zeros_like(values))
    return optax.GradientTransformation(start, update)


def _at(params: Any, path: str) -> Any:
    for part in path.split("/"):
        params = params[part]
    return params
