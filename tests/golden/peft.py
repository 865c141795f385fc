"""Adapters made by PEFT on the recorded models, and what the adapted models compute.

The cases are those of PEFT's own regression suite of files, and one of each further form. `record`
needs torch, transformers and peft; nothing else here does.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from golden.all import CASES

FIXTURES = Path(__file__).parent.parent / "fixtures"


@dataclasses.dataclass(frozen=True)
class Adapted:
    """An adapter of PEFT's.

    Args:
        model: name of the recorded model.
        settings: for PEFT's config; `kind` names its class.
        folder: sub-folder of the adapter, which bears its name.
    """

    model: str
    settings: Mapping[str, Any]
    folder: str = ""


def lora(model: str, *targets: str, folder: str = "", **settings: Any) -> Adapted:
    config = {"kind": "LoraConfig", "target_modules": list(targets), "r": 2, "lora_alpha": 4}
    return Adapted(model, config | settings, folder)


def other(kind: str, model: str, *targets: str, **settings: Any) -> Adapted:
    return Adapted(model, {"kind": kind, "target_modules": list(targets)} | settings)


ADAPTED = {
    "lora": lora("llama", "q_proj", "v_proj", task_type="CAUSAL_LM"),
    "rslora": lora("llama", "q_proj", "v_proj", use_rslora=True),
    "rank_alpha_pattern": lora(
        "llama",
        "q_proj",
        "v_proj",
        rank_pattern={"v_proj": 3},
        alpha_pattern={"q_proj": 5, "model.layers.1.self_attn.v_proj": 6},
    ),
    "bias_all": lora("bert_token_classification", "query", "value", bias="all"),
    "bias_all_classification": lora(
        "roberta_classification", "query", bias="all", task_type="SEQ_CLS"
    ),
    "bias_lora_only": lora("gpt2", "c_attn", bias="lora_only", fan_in_fan_out=True),
    "dora": lora("llama", "q_proj", "up_proj", use_dora=True),
    "modules_to_save": lora("roberta_classification", "query", "value", task_type="SEQ_CLS"),
    "modules_to_save_tied": lora(
        "gemma2", "q_proj", modules_to_save=["embed_tokens"], ensure_weight_tying=True
    ),
    "multi_adapter": lora("llama", "k_proj", folder="other"),
    "pissa_conversion": lora("llama", "q_proj", init_lora_weights="pissa"),
    "target_embedding": lora("llama", "embed_tokens", "lm_head"),
    "target_embedding_tied": lora("gemma2", "embed_tokens", ensure_weight_tying=True),
    "target_parameters": lora(
        "mixtral",
        "q_proj",
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    ),
    "fused": lora("gpt2", "c_attn", fan_in_fan_out=True, task_type="CAUSAL_LM"),
    "chosen_layers": lora("llama", "o_proj", layers_to_transform=[1]),
    "convolution": lora("vit_classification", "projection", "q_proj", use_dora=True),
    "trainable_tokens": lora("llama", "q_proj", trainable_token_indices=[3, 17]),
    "trainable_tokens_tied": lora(
        "gpt2", "c_fc", trainable_token_indices={"wte": [7, 2, 30]}, fan_in_fan_out=True
    ),
    "ia3": other(
        "IA3Config",
        "llama",
        "k_proj",
        "v_proj",
        "down_proj",
        feedforward_modules=["down_proj"],
    ),
    "ia3_fused": other("IA3Config", "gpt2", "c_attn", feedforward_modules=[], fan_in_fan_out=True),
    "vera": other("VeraConfig", "llama", "q_proj", "v_proj", r=4),
    "loha": other("LoHaConfig", "llama", "q_proj", "v_proj", r=2, alpha=3),
    "lokr": other("LoKrConfig", "llama", "q_proj", "v_proj", r=2, alpha=3),
    "lokr_both": other(
        "LoKrConfig", "llama", "q_proj", r=1, alpha=2, decompose_both=True, decompose_factor=4
    ),
    "adalora": other("AdaLoraConfig", "llama", "q_proj", "up_proj", init_r=3, total_step=10),
    "adalora_fused": other(
        "AdaLoraConfig", "gpt2", "c_attn", init_r=3, total_step=10, fan_in_fan_out=True
    ),
    "adalora_cut": other(
        "AdaLoraConfig",
        "llama",
        "q_proj",
        "up_proj",
        init_r=3,
        total_step=10,
        rank_pattern={
            "model.layers.0.self_attn.q_proj.lora_E": [True, False, True],
            "model.layers.0.mlp.up_proj.lora_E": [False, False, False],
            "model.layers.1.self_attn.q_proj.lora_E": [True, True, True],
            "model.layers.1.mlp.up_proj.lora_E": [False, True, False],
        },
    ),
    "miss": other("MissConfig", "bert_token_classification", "query", r=4, bias="all"),
    "miss_mini": other("MissConfig", "llama", "q_proj", r=5, mini_r=4, init_weights="mini"),
    "miss_fused": other("MissConfig", "qwen2_5_vl", "qkv", r=4),
    "hira": other("HiraConfig", "llama", "q_proj", "embed_tokens", r=3, rank_pattern={"q_proj": 2}),
    "hira_fused": other("HiraConfig", "gpt2", "c_attn", r=2, fan_in_fan_out=True),
    "hira_convolution": other("HiraConfig", "vit_classification", "projection", r=2),
    "gralora": other("GraloraConfig", "llama", "q_proj", "down_proj", r=4, alpha=6),
    "gralora_hybrid": other(
        "GraloraConfig",
        "gpt2",
        "c_fc",
        r=4,
        alpha=6,
        gralora_k=4,
        hybrid_r=2,
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    ),
    "ln_tuning": other("LNTuningConfig", "gpt2", "ln_1", "ln_f", task_type="CAUSAL_LM"),
    "ln_tuning_classification": other(
        "LNTuningConfig", "roberta_classification", "LayerNorm", task_type="SEQ_CLS"
    ),
    "beft": other("BeftConfig", "bert", "value", task_type="FEATURE_EXTRACTION"),
    "bare": lora("bert", "query", task_type="FEATURE_EXTRACTION"),
}


def record(case: Adapted, directory: Path) -> None:
    """Makes an adapter with random values, saves it as PEFT does, and what it computes."""
    import peft
    import torch
    import transformers

    source = FIXTURES / case.model
    settings = dict(case.settings)
    config = getattr(peft, settings.pop("kind"))(**settings)
    name = json.loads((source / "config.json").read_text())["architectures"][0]
    base = getattr(transformers, name).from_pretrained(source, attn_implementation="eager")
    torch.manual_seed(0)
    model = peft.get_peft_model(base, config, adapter_name=case.folder or "default").eval()
    starts = directory.parent / "starts"
    if str(settings.get("init_lora_weights", "")).startswith("pissa"):
        model.save_pretrained(starts)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.requires_grad:
                size = 0.3 if "lora_" in path and "magnitude" not in path else 0.1
                parameter.add_(size * torch.randn_like(parameter))
    if config.peft_type == "ADALORA" and config.rank_pattern:
        allocator = model.base_model.rankallocator
        allocator.mask_using_rank_pattern(model.base_model.model, config.rank_pattern)
    golden = CASES[case.model]
    inputs = dict(np.load(source / "expected.npz"))
    names = [name for name in inputs if name not in ("expected", "probe") and ":" not in name]
    tensors = {key: torch.tensor(inputs[key]) for key in names}
    tensors = {k: t.long() if t.dtype == torch.int32 else t for k, t in tensors.items()}
    with torch.no_grad():
        output = getattr(model(**tensors), golden.output).numpy()
    if starts.exists():
        model.save_pretrained(directory, path_initial_model_for_weight_conversion=str(starts))
    else:
        model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    file = directory / case.folder / "adapter_config.json"
    fields = json.loads(file.read_text()) | {"base_model_name_or_path": case.model}
    file.write_text(json.dumps(fields, indent=2) + "\n")
    np.savez_compressed(directory / "expected.npz", output=output)
