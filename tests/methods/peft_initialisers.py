"""What PEFT's initialisers make of the small Llama, to be recorded and compared with.

`PYTHONPATH=tests python tests/methods/peft_initialisers.py` records it anew.
"""

import dataclasses
import sys
import unittest.mock
from pathlib import Path
from typing import Any

import numpy as np

FIXTURES = Path(__file__).parent.parent / "fixtures"
RECORDED = FIXTURES / "peft_initialisers.npz"

MODULES = ("q_proj", "down_proj")
RANK, ALPHA = 4, 6.0
# Two of them see the same inputs.
EVA_MODULES, EVA_RANK = ("q_proj", "v_proj", "o_proj", "down_proj"), 3
TEXTS = np.random.default_rng(0).integers(3, 40, (2, 24))

PROBE = np.random.default_rng(1).normal(size=(16, RANK)).astype(np.float32)

LORA_GA = [
    *((direction, "stable") for direction in ("ArB2r", "A2rBr", "ArBr")),
    *(("ArB2r", scaling) for scaling in ("weight_svd", "gd_scale", "unit")),
]


def compute() -> dict[str, np.ndarray]:
    """A and B of each initialiser, layer and module, and what is left of the first base.

    Keys are ``case:layer:module:A``, ``…:B`` and ``…:base``, in PEFT's layout.
    """
    from peft.tuners.lora.config import CordaConfig, LoraGAConfig

    results = {}
    for case in ("pissa", "olora"):
        results |= _arrays(case, _model(init_lora_weights=case))
    with unittest.mock.patch("torch.randn", _probe):
        results |= _arrays("pissa_niter_2", _model(init_lora_weights="pissa_niter_2"))
    for mode in ("ipm", "kpm"):
        options = {"init_lora_weights": "corda", "corda_config": CordaConfig(corda_method=mode)}
        results |= _arrays(f"corda_{mode}", _model(_see_inputs, **options))
    for direction, scale in LORA_GA:
        config = LoraGAConfig(direction=direction, scale=scale, stable_gamma=16)
        options = {"init_lora_weights": "lora_ga", "lora_ga_config": config}
        results |= _arrays(f"{direction}_{scale}", _model(_see_gradients, **options))
    return results | _eva()


def _probe(*shape: int, **options: Any) -> Any:
    """The random columns that a randomised SVD starts from, made the same for both sides."""
    import torch

    assert shape == PROBE.shape
    return torch.tensor(PROBE, **options)


def _model(prepare: Any = None, modules: Any = MODULES, rank: int = RANK, **options: Any) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(FIXTURES / "llama")
    config = LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=list(modules), **options)
    if prepare is not None:
        prepare(model, config)
    return get_peft_model(model, config)


def _see_inputs(model: Any, config: Any) -> None:
    import torch

    # PEFT takes the name `dataclass` from a package that it does not depend on.
    with unittest.mock.patch.dict(sys.modules, {"attr": dataclasses}):
        from peft.tuners.lora.corda import preprocess_corda

    texts = torch.tensor(TEXTS)
    preprocess_corda(model, config, run_model=lambda: [model(text[None]) for text in texts])


def _see_gradients(model: Any, config: Any) -> None:
    import torch
    from peft.tuners.lora.loraga import preprocess_loraga

    texts = torch.tensor(TEXTS)

    def step() -> None:
        for text in texts:
            model(text[None], labels=text[None]).loss.backward()

    preprocess_loraga(model, config, step)


def _eva() -> dict[str, np.ndarray]:
    import torch
    from peft import initialize_lora_eva_weights
    from peft.tuners.lora.config import EvaConfig

    options = {"init_lora_weights": "eva", "eva_config": EvaConfig(rho=2.0)}
    model = _model(modules=EVA_MODULES, rank=EVA_RANK, **options)
    texts = torch.tensor(TEXTS)
    batch = {"input_ids": texts, "attention_mask": torch.ones_like(texts)}
    initialize_lora_eva_weights(model, [batch], show_progress_bar=False)
    return _arrays("eva", model)


def _arrays(case: str, model: Any) -> dict[str, np.ndarray]:
    results = {}
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A") or "default" not in module.lora_A:
            continue
        layer = name.split("layers.")[1].split(".")[0]
        key = f"{case}:{layer}:{name.split('.')[-1]}"
        results[f"{key}:A"] = module.lora_A["default"].weight.detach().numpy().copy()
        results[f"{key}:B"] = module.lora_B["default"].weight.detach().numpy().copy()
        if layer == "0" and name.endswith("q_proj"):
            results[f"{key}:base"] = module.get_base_layer().weight.detach().numpy().copy()
    return results


if __name__ == "__main__":
    np.savez_compressed(RECORDED, **compute())
