"""What PEFT makes of several LoRA adapters, to be recorded and compared with.

`PYTHONPATH=tests python tests/adapters/peft_arithmetic.py` records it anew.
"""

from pathlib import Path
from typing import Any

import numpy as np

RECORDED = Path(__file__).parent.parent / "fixtures" / "peft_arithmetic.npz"

LAYERS, INS, OUTS = 2, 12, 10
# Of each adapter its rank, alpha and weight.
ADAPTERS = {"first": (3, 6.0, 0.7), "second": (3, 1.5, -0.4), "third": (2, 5.0, 1.3)}
DENSITY = 0.45

_rng = np.random.default_rng(0)
BASE = _rng.normal(size=(LAYERS, INS, OUTS)).astype(np.float32)
FACTORS = {
    name: {
        "a": _rng.normal(size=(LAYERS, INS, rank)).astype(np.float32),
        "b": _rng.normal(size=(LAYERS, rank, OUTS)).astype(np.float32),
    }
    for name, (rank, *_) in ADAPTERS.items()
}

# Of equal rank, and of any.
EQUAL = ("first", "second")
CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "linear": (EQUAL, {}),
    "cat": (tuple(ADAPTERS), {}),
    "svd": (tuple(ADAPTERS), {}),
    "svd_4": (tuple(ADAPTERS), {"rank": 4}),
    "ties": (EQUAL, {"density": DENSITY}),
    "ties_frequency": (EQUAL, {"density": DENSITY, "majority": "frequency"}),
    "magnitude_prune": (EQUAL, {"density": DENSITY}),
    "ties_svd": (tuple(ADAPTERS), {"density": DENSITY}),
    "magnitude_prune_svd": (tuple(ADAPTERS), {"density": DENSITY}),
}


def compute() -> dict[str, np.ndarray]:
    """By case: A and B of each layer, stacked, in our layout; and conversions and intruders."""
    model = _model()
    results = {}
    for case, (names, options) in CASES.items():
        model.add_weighted_adapter(
            list(names),
            [ADAPTERS[name][2] for name in names],
            case,
            combination_type=case.removesuffix("_4").removesuffix("_frequency"),
            svd_rank=options.get("rank"),
            density=options.get("density"),
            majority_sign_method=options.get("majority", "total"),
        )
        results |= _factors(model, case)
    return results | _reduced() | _converted()


def _model(names: Any = tuple(ADAPTERS)) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    net = torch.nn.Module()
    net.layers = torch.nn.ModuleList(
        [torch.nn.Linear(INS, OUTS, bias=False) for _ in range(LAYERS)]
    )
    model = None
    for name in names:
        rank, alpha, _ = ADAPTERS[name]
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0", "1"])
        if model is None:
            model = get_peft_model(net, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    for i, layer in enumerate(model.base_model.model.layers):
        layer.base_layer.weight.data = torch.tensor(BASE[i].T)
        for name in names:
            layer.lora_A[name].weight.data = torch.tensor(FACTORS[name]["a"][i].T)
            layer.lora_B[name].weight.data = torch.tensor(FACTORS[name]["b"][i].T)
    return model


def _factors(model: Any, name: str) -> dict[str, np.ndarray]:
    layers = model.base_model.model.layers
    stacked = lambda part: np.stack(
        [getattr(layer, part)[name].weight.detach().numpy().T for layer in layers]
    )
    assert {layer.scaling[name] for layer in layers} == {1.0} or name == "reduced"
    return {f"{name}:a": stacked("lora_A"), f"{name}:b": stacked("lora_B")}


def _reduced() -> dict[str, np.ndarray]:
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    model = _model(("first",))
    reduce_intruder_dimension(
        model, "first", "reduced", top_k=3, threshold_epsilon=0.8, logging_sink=None
    )
    return _factors(model, "reduced")


def _converted() -> dict[str, np.ndarray]:
    from peft.tuners.lora.conversion import convert_to_lora

    results = {}
    for rank in (2, 0.8, 0.95):
        _, state = convert_to_lora(_model(("first",)), rank, adapter_name="first")
        for layer in range(LAYERS):
            a, b = (
                next(v for k, v in state.items() if f".{layer}.lora_{side}" in k) for side in "AB"
            )
            results[f"converted_{rank}:{layer}:a"] = a.numpy().T
            results[f"converted_{rank}:{layer}:b"] = b.numpy().T
    return results


if __name__ == "__main__":
    np.savez_compressed(RECORDED, **compute())
