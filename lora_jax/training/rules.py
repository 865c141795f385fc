"""Update rules by their names in Optax: the direction of a step, from the gradients so far.

Weight decay and the learning rate come after the rule, in `optimizer`, and are the same for all.
Optax has no rule with 8-bit states; `mu_dtype="bfloat16"` halves the first moment.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
import optax.contrib
from jaxtyping import PyTree

from lora_jax.lifting import path_name
from lora_jax.nearest import name_nearest

# Arrays that are a matrix in each layer: kernels, and factors of LoRA and its kin.
MATRIX = r"kernel|a|b|[ab][12]|w[12](_[ab])?"


def sgd(b1: float = 0.9, *, nesterov: bool = False) -> optax.GradientTransformation:
    """Gradient descent with momentum b1."""
    return optax.trace(b1, nesterov)


def adafactor(**arguments: Any) -> optax.GradientTransformation:
    """`optax.adafactor` without its learning rate."""
    return optax.chain(optax.adafactor(learning_rate=None, **arguments), optax.scale(-1.0))


def muon(**arguments: Any) -> optax.GradientTransformation:
    """`optax.contrib.muon` without its learning rate.

    The last two axes of a kernel or a factor are its matrix; those before are layers, experts or
    blocks, and each is orthogonalised by itself. All else (biases, norms, magnitudes, embeddings)
    follows Adam, as Muon's authors advise.
    """
    rule = optax.contrib.muon(
        learning_rate=1.0, muon_weight_dimension_numbers=matrices, **arguments
    )
    return optax.chain(rule, optax.scale(-1.0))


def matrices(params: PyTree) -> PyTree:
    """Says which axes of each array are its matrix; `None` where there is none."""

    def axes(path: tuple, x: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        is_matrix = x.ndim >= 2 and re.fullmatch(MATRIX, path_name(path).split("/")[-1])
        return optax.contrib.MuonDimensionNumbers(x.ndim - 2, x.ndim - 1) if is_matrix else None

    return jax.tree.map_with_path(axes, params)


RULES: Mapping[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": optax.scale_by_adam,
    "adam": optax.scale_by_adam,  # without weight decay
    "adafactor": adafactor,
    "lion": optax.scale_by_lion,
    "sgd": sgd,
    "muon": muon,
}

# Whose arguments a rule takes, and which of them are settled elsewhere.
_SIGNATURES = {"adafactor": optax.adafactor, "muon": optax.contrib.muon}
_ELSEWHERE = re.compile(r".*(learning_rate|weight_d(ecay|imension)).*")


def make_rule(name: str, arguments: Mapping[str, Any]) -> optax.GradientTransformation:
    """Makes a rule.

    Args:
      name: a key of `RULES`.
      arguments: of the rule, by their names in Optax; what is absent has Optax's default.

    Returns:
      A transformation of gradients into a direction, uphill and of the rule's own length.

    Raises:
      ValueError: an argument that the rule does not take.

    Example:
      >>> make_rule("lion", {"b2": 0.95}) is not None
      True
    """
    takes = [
        argument
        for argument in inspect.signature(_SIGNATURES.get(name, RULES[name])).parameters
        if not _ELSEWHERE.fullmatch(argument)
    ]
    for argument in arguments:
        if argument not in takes:
            raise ValueError(
                f"the optimizer {name!r} takes no {argument!r}; nearest: "
                f"{name_nearest(argument, takes)}; all: {', '.join(takes)}"
            )
    return RULES[name](**arguments)
