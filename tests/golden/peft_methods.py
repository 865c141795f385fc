"""Adapters of PEFT on small models: what they compute, and how their arrays are ours.

`record` needs torch, transformers and peft; the tests need its files alone.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import lora_jax as lora

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
STEPS = (1, 10, 100)
LEARNING_RATE, WEIGHT_DECAY, EPSILON = 1e-3, 0.1, 1e-6

Names = Mapping[str, str]  # array of ours -> what follows the module in PEFT's names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One method on one model.

    Attributes:
      config: PEFT's configuration, from the module `peft`.
      method: ours.
      targets: ours, each with the module of transformers that it is; `{layer}` counts layers.
      arrays: for each array of ours, PEFT's name after the module's; each is its transpose.
      model: fixture with the base.
      scale: of the random changes made to the initial arrays.
    """

    config: Callable[[Any], Any]
    method: Any
    targets: Mapping[str, str]
    arrays: Names
    model: str = "llama"
    scale: float = 0.1


ATTENTION = "model.layers.{layer}.self_attn."
QV = {"layers/q_proj/kernel": ATTENTION + "q_proj", "layers/v_proj/kernel": ATTENTION + "v_proj"}
DOWN = {"layers/down_proj/kernel": "model.layers.{layer}.mlp.down_proj"}
LORA = {"a": "lora_A.default.weight", "b": "lora_B.default.weight"}
EMBEDDING = {"a": "lora_embedding_A.default", "b": "lora_embedding_B.default"}
LOKR = {"w1": "lokr_w1.default", "w2_a": "lokr_w2_a.default", "w2_b": "lokr_w2_b.default"}
NAMES = ["q_proj", "v_proj"]


def lora_config(**fields: Any) -> Callable[[Any], Any]:
    fields = {"r": 4, "lora_alpha": 6, "target_modules": NAMES} | fields
    return lambda peft: peft.LoraConfig(**fields)


def config(name: str, **fields: Any) -> Callable[[Any], Any]:
    return lambda peft: getattr(peft, name)(**{"target_modules": NAMES} | fields)


CASES: dict[str, Case] = {
    "lora": Case(config=lora_config(), method=lora.LoRA(rank=4, alpha=6), targets=QV, arrays=LORA),
    "rslora": Case(
        config=lora_config(use_rslora=True),
        method=lora.LoRA(rank=4, alpha=6, rs=True),
        targets=QV,
        arrays=LORA,
    ),
    "lora_ranks": Case(  # no adapter on the first layer's v_proj, and its own α on the second
        config=lora_config(
            target_modules=r".*layers\.(0\.self_attn\.q_proj|1\.self_attn\.[qv]_proj)",
            rank_pattern={r"layers.1.self_attn.q_proj": 2},
            alpha_pattern={r"layers.1.self_attn.q_proj": 3},
        ),
        method={
            "layers/q_proj/kernel": lora.LoRA(ranks=(4, 2), alphas=(6.0, 3.0)),
            "layers/v_proj/kernel": lora.LoRA(ranks=(0, 4), alpha=6),
        },
        targets=QV,
        arrays=LORA,
    ),
    "lora_embedding": Case(
        config=lora_config(target_modules=["embed_tokens"]),
        method=lora.LoRA(rank=4, alpha=6),
        targets={"embed/embedding": "model.embed_tokens"},
        arrays=EMBEDDING,
    ),
    "dora": Case(
        config=lora_config(use_dora=True),
        method=lora.DoRA(rank=4, alpha=6),
        targets=QV,
        arrays=LORA | {"m": "lora_magnitude_vector.default.weight"},
    ),
    "dora_embedding": Case(
        config=lora_config(target_modules=["embed_tokens"], use_dora=True),
        method=lora.DoRA(rank=4, alpha=6),
        targets={"embed/embedding": "model.embed_tokens"},
        arrays=EMBEDDING | {"m": "lora_magnitude_vector.default.weight"},
    ),
    "vera": Case(
        config=config("VeraConfig", r=8),
        method=lora.VeRA(rank=8),
        targets=QV,
        arrays={
            "a": "vera_A.default",
            "b": "vera_B.default",
            "d": "vera_lambda_d.default",
            "g": "vera_lambda_b.default",
        },
    ),
    "ia3": Case(
        config=config(
            "IA3Config", target_modules=[*NAMES, "down_proj"], feedforward_modules=["down_proj"]
        ),
        method={**dict.fromkeys(QV, lora.IA3()), **dict.fromkeys(DOWN, lora.IA3(feedforward=True))},
        targets=QV | DOWN,
        arrays={"l": "ia3_l.default"},
    ),
    "ia3_biased": Case(
        config=config(
            "IA3Config",
            target_modules=["c_fc", "mlp.c_proj"],
            feedforward_modules=["mlp.c_proj"],
            fan_in_fan_out=True,
        ),
        method={
            "layers/fc1/kernel": lora.IA3(),
            "layers/fc2/kernel": lora.IA3(feedforward=True),
        },
        targets={
            "layers/fc1/kernel": "transformer.h.{layer}.mlp.c_fc",
            "layers/fc2/kernel": "transformer.h.{layer}.mlp.c_proj",
        },
        arrays={"l": "ia3_l.default"},
        model="gpt2",
    ),
    "loha": Case(
        config=config("LoHaConfig", r=3, alpha=5),
        method=lora.LoHa(rank=3, alpha=5),
        targets=QV,
        arrays={
            "a1": "hada_w1_b.default",
            "b1": "hada_w1_a.default",
            "a2": "hada_w2_b.default",
            "b2": "hada_w2_a.default",
        },
    ),
    "lokr": Case(
        config=config("LoKrConfig", r=1, alpha=2),
        method=lora.LoKr(rank=1, alpha=2),
        targets=QV,
        arrays=LOKR,
    ),
    "lokr_both": Case(
        config=config("LoKrConfig", r=1, alpha=2, decompose_both=True, decompose_factor=4),
        method=lora.LoKr(rank=1, alpha=2, decompose_both=True, factor=4),
        targets=QV,
        arrays=LOKR | {"w1_a": "lokr_w1_a.default", "w1_b": "lokr_w1_b.default"},
    ),
    "lokr_whole": Case(
        config=config("LoKrConfig", r=4, alpha=2),
        method=lora.LoKr(rank=4, alpha=2),
        targets=QV,
        arrays={"w1": "lokr_w1.default", "w2": "lokr_w2.default"},
    ),
    "adalora": Case(
        config=config("AdaLoraConfig", init_r=4, lora_alpha=6, total_step=100),
        method=lora.AdaLoRA(rank=4, alpha=6),
        targets=QV,
        arrays={"a": "lora_A.default", "b": "lora_B.default", "e": "lora_E.default"},
    ),
    "miss": Case(
        config=config("MissConfig", r=5),  # does not divide the 16 inputs
        method=lora.MiSS(rank=5),
        targets=QV,
        arrays={"b": "miss_block.default"},
    ),
    "miss_mini": Case(
        config=config("MissConfig", r=4, mini_r=8, init_weights="mini"),
        method=lora.MiSS(rank=4, mini=8),
        targets=QV,
        arrays={"b": "miss_block.default"},
    ),
    "hira": Case(
        config=config("HiraConfig", r=4),
        method=lora.HiRA(rank=4),
        targets=QV,
        arrays={"a": "hira_A.default", "b": "hira_B.default"},
    ),
    "gralora": Case(
        config=config("GraloraConfig", r=4, alpha=6, gralora_k=2, hybrid_r=2),
        method=lora.GraLoRA(rank=4, alpha=6, k=2, hybrid=2),
        targets=QV,
        arrays={
            "a": "gralora_A.default",
            "b": "gralora_B.default",
            "ga": "gralora_A_general.default.weight",
            "gb": "gralora_B_general.default.weight",
        },
    ),
    "norms": Case(
        config=config("LNTuningConfig", target_modules=["input_layernorm", "norm"]),
        method=lora.LayerNormTuning(),
        targets={
            "layers/attention_norm/scale": "model.layers.{layer}.input_layernorm",
            "norm/scale": "model.norm",
        },
        arrays={"d": "ln_tuning_layers.default.weight"},
    ),
    "modules_to_save": Case(
        config=lora_config(modules_to_save=["lm_head"]),
        method=dict.fromkeys(QV, lora.LoRA(rank=4, alpha=6)) | {"lm_head/kernel": lora.Full()},
        targets=QV | {"lm_head/kernel": "lm_head"},
        arrays=LORA | {"d": "modules_to_save.default.weight"},
    ),
    "biases": Case(
        config=lora_config(target_modules=["c_fc"], bias="lora_only", fan_in_fan_out=True),
        method={"layers/fc1/kernel": lora.LoRA(rank=4, alpha=6), "layers/fc1/bias": lora.BitFit()},
        targets={
            "layers/fc1/kernel": "transformer.h.{layer}.mlp.c_fc",
            "layers/fc1/bias": "transformer.h.{layer}.mlp.c_fc",
        },
        arrays=LORA | {"d": "base_layer.bias"},
        model="gpt2",
    ),
    "token_rows": Case(
        config=lora_config(trainable_token_indices={"embed_tokens": [7, 11, 30]}),
        method=dict.fromkeys(QV, lora.LoRA(rank=4, alpha=6))
        | {"embed/embedding": lora.TokenRows(ids=(7, 11, 30))},
        targets=QV | {"embed/embedding": "model.embed_tokens"},
        arrays=LORA | {"rows": "token_adapter.trainable_tokens_delta.default"},
    ),
}

AS_OURS = ("miss", "gralora_A.", "gralora_B.", "token_adapter")  # the others are transposed


def read(name: str) -> dict[str, np.ndarray]:
    """What was recorded of a case."""
    with np.load(FIXTURES / "peft_methods" / f"{name}.npz") as file:
        return dict(file)


def write(name: str, recorded: Mapping[str, np.ndarray]) -> None:
    """Saves what was recorded of a case."""
    path = FIXTURES / "peft_methods" / f"{name}.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, **recorded)


def inputs(model: str) -> tuple[np.ndarray, np.ndarray]:
    """The token ids and mask that the model was recorded with."""
    recorded = np.load(FIXTURES / model / "expected.npz")
    return recorded["input_ids"], recorded["attention_mask"]


def layers_of(module: str, count: int) -> list[str]:
    """The modules of all layers."""
    return [module.format(layer=i) for i in range(count)] if "{layer}" in module else [module]


# ---------------------------------------------------------------------------------------------
# What PEFT does


def record(case: Case) -> dict[str, np.ndarray]:
    """Logits, gradients, the arrays after some steps and the merged weights, by PEFT's names."""
    import peft
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        FIXTURES / case.model, attn_implementation="eager"
    )
    ids, mask = (torch.tensor(array).long() for array in inputs(case.model))
    plain = base(input_ids=ids, attention_mask=mask).logits.detach().numpy()
    model = peft.get_peft_model(base, case.config(peft)).eval()
    started = model(input_ids=ids, attention_mask=mask).logits.detach().numpy()
    result = {"identity": np.abs(started - plain).max()}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(case.scale * torch.randn_like(parameter))
    arrays = trained | {name: buffer for name, buffer in model.named_buffers() if "vera_" in name}
    keep = lambda stage, tensors: result.update(
        {f"{stage}:{name}": tensor.detach().numpy().copy() for name, tensor in tensors.items()}
    )
    keep("start", arrays)

    optimizer = torch.optim.AdamW(
        trained.values(), lr=LEARNING_RATE, weight_decay=decay(case), eps=EPSILON
    )
    for step in range(1, STEPS[-1] + 1):
        logits = model(input_ids=ids, attention_mask=mask).logits
        loss = _next_token_loss(logits, ids, mask)
        optimizer.zero_grad()
        loss.backward()
        if step == 1:
            result["logits"] = logits.detach().numpy()
            keep("gradient", {n: p.grad for n, p in trained.items() if p.grad is not None})
            with torch.no_grad():
                keep("merged", _merged(model, case))
        optimizer.step()
        if step in STEPS:
            keep(f"after {step}", trained)
    return {name: np.asarray(value) for name, value in result.items()}


def decay(case: Case) -> float:
    """Decay draws PEFT's W to zero, but what we add to W to W; so there is none there."""
    methods = [method_of(case, path) for path in case.targets]
    added = any(isinstance(method, lora.Full | lora.TokenRows) for method in methods)
    return 0.0 if added else WEIGHT_DECAY


def _next_token_loss(logits: Any, ids: Any, mask: Any) -> Any:
    import torch

    target = torch.where(mask[:, 1:] > 0, ids[:, 1:], -100)
    return torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), target)


def _merged(model: Any, case: Case) -> dict[str, Any]:
    import copy

    merged = copy.deepcopy(model).merge_and_unload()
    state = merged.state_dict()
    modules = {m for one in case.targets.values() for m in layers_of(one, _layers(merged))}
    return {name: tensor for name, tensor in state.items() if name.rpartition(".")[0] in modules}


def _layers(model: Any) -> int:
    return int(model.config.num_hidden_layers)


# ---------------------------------------------------------------------------------------------
# The same in our names


def to_ours(
    case: Case, stage: str, recorded: Mapping[str, np.ndarray], shapes: Any
) -> dict[str, dict[str, np.ndarray]]:
    """PEFT's arrays of a stage as ours; where a layer has none, zeros, and zeros beyond a rank.

    Args:
      case: says the names.
      stage: "start", "gradient", "after 1" …
      recorded: from `record`.
      shapes: of our factors, ``{path: {name: array or shape}}``.
    """
    return {
        path: {
            name: _one(case.arrays[name], module, stage, recorded, shapes[path][name].shape)
            for name in shapes[path]
            if not (stage != "start" and name in getattr(method_of(case, path), "frozen", ()))
        }
        for path, module in case.targets.items()
    }


def method_of(case: Case, path: str) -> Any:
    """Our method at a target."""
    return case.method[path] if isinstance(case.method, Mapping) else case.method


def _one(
    suffix: str, module: str, stage: str, recorded: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    stacked = "{layer}" in module
    result = np.zeros(shape, np.float32)
    shared = suffix.startswith(("vera_A", "vera_B"))  # without a layer axis
    for i, layer in enumerate(layers_of(module, shape[0] if stacked and not shared else 1)):
        name = f"{stage}:base_model.model.{layer}.{suffix}"
        if shared:  # under the name of whichever module came first
            name = next(name for name in recorded if name.endswith(suffix))
        if name not in recorded:
            continue
        array = recorded[name].squeeze()
        array = array if suffix.startswith(AS_OURS) else array.T
        place = result[i] if stacked and not shared else result
        array = array.reshape(place.shape) if array.size == place.size else array
        inside = tuple(map(slice, np.minimum(array.shape, place.shape)))
        place[inside] = array[inside]
    return result


def merged_to_ours(
    path: str, module: str, recorded: Mapping[str, np.ndarray], wanted: np.ndarray
) -> np.ndarray:
    """PEFT's merged weight in the layout of our array `wanted`."""
    kind = "bias" if path.endswith("bias") else "weight"
    layers = layers_of(module, len(wanted))
    stacked = np.stack([recorded[f"merged:{layer}.{kind}"] for layer in layers])
    array = stacked if "{layer}" in module else stacked[0]
    stored = not path.endswith("kernel") or "transformer.h" in module  # GPT-2's lie as ours
    return array if stored else array.swapaxes(-1, -2)
