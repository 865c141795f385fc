"""PEFT's methods that train norms or biases with no adapter beside them: LN tuning and BEFT.

LN tuning saves the trained modules themselves, so the base must be at hand both ways; BEFT saves
what is added to each bias, as `BitFit` holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lora_jax.hub.peft_config import find_targets
from lora_jax.hub.peft_form import Part
from lora_jax.hub.peft_matrices import MatrixForm
from lora_jax.hub.peft_modules import LINEAR, Layout, Module
from lora_jax.hub.peft_whole import HEADS, Base, Saved, is_head, write_whole
from lora_jax.lifting import Method
from lora_jax.methods import BitFit

_INNER = "ln_tuning_layers"


def is_norm(module: Module, layout: Layout) -> bool:
    """Whether no parameter of a module has more than one axis."""
    own = [one for one in layout.modules if one.name == module.name]
    return all(len(one.one_shape) == 1 for one in own)


def write_norms(layout: Layout, added: Mapping[str, np.ndarray], base: Base | None) -> Saved:
    """The trained values of norms, and of the head of the task.

    Args:
        layout: the modules of the model.
        added: what was added to arrays of the base, by our paths.
        base: the base by our paths.

    Raises:
        ValueError: the base is not given.
    """
    saved = write_whole(layout, added, set(), base, with_biases=False)
    heads = {module.name for module in layout.modules if is_head(module, layout)}
    tensors = {}
    for key, tensor in saved.tensors.items():
        name, _, parameter = key.rpartition(".")
        tensors[key if name in heads else f"{name}.{_INNER}.{parameter}"] = tensor
    return saved._replace(tensors=tensors, modules=list(HEADS.get(layout.task_type or "", ())))


def norm_fields(layout: Layout, touched: Sequence[Module]) -> dict[str, Any]:
    """The fields of the config that say which norms are trained."""
    names = {module.name for module in touched}
    norms = [one for one in layout.modules if one.name in names and not is_head(one, layout)]
    found = {module: [module.at(place) for place in module.places] for module in norms}
    return {"target_modules": find_targets(layout, found).modules}


def check_biases(layout: Layout, biases: Sequence[Module]) -> None:
    """Checks that PEFT trains these biases with no adapter beside them.

    Raises:
        ValueError: one is not of a linear layer.
    """
    for bias in biases:
        found = layout.find(bias.at(bias.places[0]), "weight")
        if found is None or found[0].kind != LINEAR:
            raise ValueError(
                f"PEFT's BEFT trains biases of linear layers, and {bias.name} is none: leave it "
                "out, or adapt a weight by LoRA too, beside which all biases can be trained"
            )


class BiasForm(MatrixForm):
    """PEFT's form of biases alone: a row that is added to the outputs."""

    def check(self, module: Module, parts: Sequence[Part]) -> None:
        """Nothing more: `check_biases` has seen the layers."""
        del module, parts

    def _to_file(self, array: np.ndarray, name: str) -> np.ndarray:
        del name
        return array[None]

    def _from_file(self, tensor: np.ndarray, name: str) -> np.ndarray:
        del name
        return tensor[0]


def _bitfit(fields: Mapping[str, Any], rank: int, scale: float, dtype: Any) -> Method:
    del fields, rank, scale
    return BitFit(dtype=dtype)


BEFT = BiasForm("BEFT", BitFit, {"d": "beft_bias"}, _bitfit, columns=("d",))
